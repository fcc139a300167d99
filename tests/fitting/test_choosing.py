"""Which plans are built, and which are put to the proof first."""

from dataclasses import replace

import numpy as np
import pytest
from support.fits import StubBench, candidate, case, trial

from foveate.evaluate.evidence import Answers, judge_budget
from foveate.fitting.bench import Seat
from foveate.fitting.budget import Goal
from foveate.fitting.choosing import FALLBACKS, SLACK, bias, more_careful, next_to_build, ranked
from foveate.fitting.lane import LEAST_BUILT, room_for_more
from foveate.fitting.trials import Trial, judged_together

BY_LOSS, DENSE = Goal(None, 1.0), {"dense_ms": 10.0, "predicted_dense_ms": 20.0, "unseen": 400}


def front(count=12):
    """From fast and lossy to slow and exact; predictions are in units of which the dense model takes 20."""
    return [candidate(8.0 + i, loss=0.1 / (i + 1), expected=6.0 / (i + 1), tokens=60 + i) for i in range(count)]


def built_in_turn(candidates, goal, points=lambda c: c.expected_drop, takes=lambda c: c.predicted_ms / 20.0, most=20):
    """Trials in the order in which they are asked for. `points`: what each loses on 1,000 photographs of the search,
    its answers as far from the given model's as the search had said."""
    whole, trials = case(search=1000), []
    while len(trials) < most and (found := next_to_build(candidates, trials, goal, **DENSE)) is not None:
        name = f"{found.predicted_ms}"
        bench = StubBench({"dense": 20.0, name: 20.0 * takes(found)})
        build = bench.add(name, found.steps)
        lost = (np.arange(1000) < round(10 * points(found))).astype(float)
        look = whole.search.look(bench.outputs(name, whole.search.x))
        look = replace(look, answers=Answers(np.full(1000, found.loss), lost, lost))
        made = Trial(found, Seat(bench, name), build, takes(found), look, judge_budget(goal.points, look.answers))
        trials = judged_together([*trials, made], goal)
    return trials


def order(trials):
    return [t.candidate.predicted_ms for t in trials]


def kept(trials):
    return [t.candidate.predicted_ms for t in trials if t.kept.outcome != "broken"]


def test_the_first_built_weighs_speed_against_the_odds_of_keeping_the_budget():
    first = next_to_build(front(), [], BY_LOSS, **DENSE)
    assert first.expected_drop < 2 and first.predicted_ms < 0.9 * 20
    sure, rash = candidate(17.0, expected=0.01, tokens=9), candidate(16.0, expected=2.9, tokens=10)
    assert next_to_build([sure, rash], [], BY_LOSS, **DENSE) == sure
    fair = candidate(10.0, expected=0.5, tokens=11)
    assert next_to_build([sure, fair], [], BY_LOSS, **DENSE) == fair


@pytest.mark.parametrize("factor", [0.1, 0.3, 0.6, 1.0])
def test_what_trials_lost_leads_to_the_fastest_that_keeps_the_budget(factor):
    """The search is wrong by a factor: plans lose so many times what it expected."""
    lossy = lambda c: factor * c.expected_drop
    trials = built_in_turn(front(), BY_LOSS, points=lossy)
    within = [c.predicted_ms for c in front() if lossy(c) <= 0.6 and c.expected_drop <= SLACK]
    assert len(trials) < len(front()) and len(kept(trials)) >= FALLBACKS
    assert min(kept(trials)) <= min(within)


def test_one_narrow_refusal_does_not_bar_a_faster_plan_that_moves_the_outputs_no_further():
    slower, faster = candidate(17.0, loss=0.010, expected=1.2, tokens=9), candidate(14.0, 0.010, 1.2, tokens=10)
    safe = candidate(18.0, loss=0.001, expected=0.2, tokens=11)
    losses = {17.0: 1.1, 14.0: 0.4, 18.0: 0.1}
    trials = built_in_turn([faster, slower, safe], BY_LOSS, points=lambda c: losses[c.predicted_ms])
    assert 14.0 in kept(trials)


def test_where_trials_lose_far_more_than_expected_slower_ones_are_asked_for():
    trials = built_in_turn(front(), BY_LOSS, points=lambda c: 10 * c.expected_drop)
    assert order(trials)[-1] > order(trials)[0] and kept(trials) == []


def test_after_refusals_what_moves_the_outputs_half_as_far_is_asked_for():
    made = built_in_turn([candidate(10.0, loss=0.02, expected=0.5, tokens=9)], BY_LOSS)
    far, near = (
        candidate(11.0, loss=0.012, expected=0.4, tokens=10),
        candidate(15.0, loss=0.01, expected=0.3, tokens=11),
    )
    ask = lambda *found: more_careful(found, made, BY_LOSS, 20.0, 40)
    assert ask(far, near) == near and ask(far) is None
    assert more_careful([near], made, Goal(8.0, None), 20.0, 40) is None


def test_a_verdict_on_a_trial_is_given_anew_with_those_after_it():
    """Some answers changed, and nothing is known of others; then others moved as far and changed fewer."""
    whole, bench = case(), StubBench({"dense": 10.0, "a": 9.0, "b": 9.0, "c": 9.0}, wrong={"a": 0.01, "b": 0.005})
    alone = trial(bench, "a", whole, BY_LOSS)
    others = [trial(bench, name, whole, BY_LOSS) for name in "bc"]
    far = [
        replace(t, look=replace(t.look, answers=replace(t.look.answers, distance=alone.look.answers.distance)))
        for t in others
    ]
    assert alone.kept.outcome == "broken"
    assert judged_together([alone, *far], BY_LOSS)[0].kept.estimate < alone.kept.estimate


def test_what_is_expected_to_lose_far_more_than_allowed_is_not_built():
    assert next_to_build([candidate(9.0, expected=SLACK + 0.01)], [], BY_LOSS, **DENSE) is None
    assert next_to_build([candidate(9.0, expected=50.0)], [], Goal(None, None), **DENSE) is not None


def test_what_is_expected_to_gain_next_to_nothing_is_not_built():
    assert next_to_build([candidate(19.7)], [], BY_LOSS, **DENSE) is None
    assert next_to_build([candidate(19.5)], [], BY_LOSS, **DENSE) is not None
    assert next_to_build([candidate(19.7)], [], Goal(9.9, None), **DENSE) is not None  # but a limit may want no more


def test_under_a_limit_the_least_lossy_near_it_are_built_and_one_clearly_faster():
    trials = built_in_turn(front(), Goal(8.0, None), most=3)  # 16 of the table's milliseconds
    assert all(ms <= 1.02 * 16 for ms in order(trials))
    assert order(trials)[:2] == [16.0, 15.0] and order(trials)[2] <= 0.95 * 16


def test_what_trials_took_corrects_the_next_predictions():
    bench, whole = StubBench({"dense": 10.0, "a": 10.0}), case()
    slow = trial(bench, "a", whole, BY_LOSS, share=1.0)  # predicted at 10 of 20, measured at 1 of 1
    assert bias([], 20.0) == 1.0
    assert bias([slow], 20.0) == pytest.approx(2.0)
    within = Goal(8.0, None)
    free = next_to_build(front(), [], within, **DENSE)
    wary = next_to_build(front(), [slow], within, **DENSE)
    assert wary.predicted_ms < free.predicted_ms


def test_nothing_is_built_twice():
    for goal in (BY_LOSS, Goal(8.0, None)):
        built = order(built_in_turn(front(), goal))
        assert len(built) == len(set(built)) > 1


def test_the_fastest_that_keeps_the_budget_is_put_to_the_proof_first():
    bench, whole = StubBench({"dense": 10.0, "a": 9.0, "b": 7.0, "c": 5.0}, wrong={"c": 0.2}), case()
    trials = [trial(bench, name, whole, BY_LOSS) for name in "abc"]
    assert [t.label for t in ranked(trials, BY_LOSS, 10.0)] == ["b", "a"]  # c loses 20 points


def test_under_a_limit_the_least_lossy_within_it_comes_first():
    speeds, wrong = {"dense": 10.0, "slow": 9.0, "near": 7.9, "fast": 5.0}, {"near": 0.02, "fast": 0.04}
    bench, whole, goal = StubBench(speeds, wrong), case(), Goal(8.0, None)
    trials = [trial(bench, name, whole, goal) for name in ("fast", "slow", "near")]
    assert [t.label for t in ranked(trials, goal, 10.0)] == ["near", "fast", "slow"]


@pytest.mark.parametrize(("built", "spent", "more"), [(0, 0, True), (1, 500, True), (2, 61, False), (3, 60, True)])
def test_fewer_are_built_where_a_trial_takes_long(built, spent, more):
    assert room_for_more(built, spent, 90.0) is more and LEAST_BUILT == 2

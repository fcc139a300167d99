"""Which plans are built, and which are put to the proof first."""

from dataclasses import replace

import pytest
from support.fits import StubBench, candidate, case, trial

from foveate.evaluate.evidence import judge_budget
from foveate.fitting.bench import Seat
from foveate.fitting.budget import Goal
from foveate.fitting.choosing import FALLBACKS, SLACK, bias, next_to_build, ranked
from foveate.fitting.lane import LEAST_BUILT, room_for_more
from foveate.fitting.trials import Trial, judged_together

BY_LOSS, DENSE = Goal(None, 1.0), {"dense_ms": 10.0, "predicted_dense_ms": 20.0}


def front(count=12):
    """From fast and lossy to slow and exact; predictions are in units of which the dense model takes 20."""
    return [candidate(8.0 + i, loss=0.1 / (i + 1), expected=6.0 / (i + 1), tokens=60 + i) for i in range(count)]


def built_in_turn(candidates, goal, wrong=lambda ms: 0.0, takes=lambda ms: ms / 20.0, most=20):
    """Trials in the order in which they are asked for; `wrong`: share of answers each gets wrong, of predicted ms."""
    whole, trials = case(), []
    while len(trials) < most:
        found = next_to_build(candidates, trials, goal, **DENSE)
        if found is None:
            break
        name = f"{found.predicted_ms}"
        bench = StubBench({"dense": 20.0, name: 20.0 * takes(found.predicted_ms)}, {name: wrong(found.predicted_ms)})
        seat = Seat(bench, name)
        build = bench.add(name, found.steps)
        look = whole.search.look(bench.outputs(name, whole.search.x))
        made = Trial(found, seat, build, takes(found.predicted_ms), look, judge_budget(goal.points, look.answers))
        trials = judged_together([*trials, made], goal)
    return trials


def order(trials):
    return [t.candidate.predicted_ms for t in trials]


def test_the_first_built_is_the_fastest_that_is_expected_to_keep_the_budget():
    first = next_to_build(front(), [], BY_LOSS, **DENSE)
    assert first.expected_drop <= 1 < front()[front().index(first) - 1].expected_drop
    lossy = [candidate(9.0, expected=2.9, tokens=9), candidate(10.0, expected=2.0, tokens=10)]
    assert next_to_build(lossy, [], BY_LOSS, **DENSE).predicted_ms == 10.0  # else the one of least loss


@pytest.mark.parametrize("border", [9.5, 11.5, 13.5, 17.5])
def test_halving_finds_the_fastest_that_keeps_the_budget(border):
    trials = built_in_turn(front(), BY_LOSS, wrong=lambda ms: 0.3 if ms < border else 0.0)
    able = [c.predicted_ms for c in front() if c.expected_drop <= SLACK]
    kept = [ms for ms in able if ms > border]
    assert min(t.candidate.predicted_ms for t in trials if t.kept.outcome != "broken") == kept[0]
    assert sum(t.kept.outcome != "broken" for t in trials) >= min(FALLBACKS, len(kept))  # others stand behind it
    assert len(trials) < len(able)


def test_where_all_are_too_lossy_all_slower_ones_are_asked_for():
    trials = built_in_turn(front(), BY_LOSS, wrong=lambda ms: 0.3)
    assert max(order(trials)) == front()[-1].predicted_ms


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

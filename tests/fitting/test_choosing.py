"""Which plans are built, and which are put to the proof first."""

import pytest
from support.fits import StubBench, candidate, case, trial

from foveate.fitting.budget import Goal
from foveate.fitting.choosing import SHORTLIST_SLACK, bias, ranked, shortlist
from foveate.fitting.lane import LEAST_BUILT, by_clock

BY_LOSS, DENSE = Goal(None, 1.0), {"dense_ms": 10.0, "predicted_dense_ms": 20.0}


def front(count=12):
    """From fast and lossy to slow and exact; predictions are in units of which the dense model takes 20."""
    return [candidate(8.0 + i, loss=0.1 / (i + 1), expected=6.0 / (i + 1), tokens=60 + i) for i in range(count)]


def test_without_a_limit_the_shortlist_spans_those_that_may_keep_the_budget():
    found = shortlist(front(), [], BY_LOSS, most=4, **DENSE)
    able = [c for c in front() if c.expected_drop <= SHORTLIST_SLACK]
    assert [found[0].steps, found[-1].steps] == [able[0].steps, able[-1].steps] and len(found) == 4


def test_what_is_expected_to_lose_far_more_than_allowed_is_not_built():
    assert shortlist([candidate(9.0, expected=SHORTLIST_SLACK + 0.01)], [], BY_LOSS, most=4, **DENSE) == []
    assert len(shortlist([candidate(9.0, expected=50.0)], [], Goal(None, None), most=4, **DENSE)) == 1


def test_what_is_expected_to_gain_next_to_nothing_is_not_built():
    found = shortlist([candidate(19.7), candidate(19.5)], [], BY_LOSS, most=4, **DENSE)
    assert [c.predicted_ms for c in found] == [19.5]


def test_under_a_limit_the_least_lossy_near_it_are_built_and_one_clearly_faster():
    limit = Goal(8.0, None)  # 16 of the table's milliseconds
    found = shortlist(front(), [], limit, most=3, **DENSE)
    assert all(c.predicted_ms <= 1.02 * 16 for c in found)
    assert found[0] == min((c for c in front() if c.predicted_ms <= 1.02 * 16), key=lambda c: c.loss)
    assert found[-1].predicted_ms <= 0.95 * 16 and len(found) == 3


def test_what_trials_took_corrects_the_next_predictions():
    bench, whole = StubBench({"dense": 10.0, "a": 10.0}), case()
    slow = trial(bench, "a", whole, BY_LOSS, share=1.0)  # predicted at 10 of 20, measured at 1 of 1
    assert bias([], 20.0) == 1.0
    assert bias([slow], 20.0) == pytest.approx(2.0)
    within = Goal(8.0, None)
    free = shortlist(front(), [], within, most=3, **DENSE)
    wary = shortlist(front(), [slow], within, most=3, **DENSE)
    assert max(c.predicted_ms for c in wary) < max(c.predicted_ms for c in free)


def test_what_is_built_is_not_built_again():
    bench, whole = StubBench({"dense": 10.0, "a": 9.0}), case()
    built = trial(bench, "a", whole, BY_LOSS, tokens=60)
    assert built.candidate.steps not in [c.steps for c in shortlist(front(), [built], BY_LOSS, most=12, **DENSE)]


def test_the_fastest_that_keeps_the_budget_is_put_to_the_proof_first():
    bench, whole = StubBench({"dense": 10.0, "a": 9.0, "b": 7.0, "c": 5.0}, wrong={"c": 0.2}), case()
    trials = [trial(bench, name, whole, BY_LOSS) for name in "abc"]
    assert [t.label for t in ranked(trials, BY_LOSS, 10.0)] == ["b", "a"]  # c loses 20 points


def test_under_a_limit_the_least_lossy_within_it_comes_first():
    speeds, wrong = {"dense": 10.0, "slow": 9.0, "near": 7.9, "fast": 5.0}, {"near": 0.02, "fast": 0.04}
    bench, whole, goal = StubBench(speeds, wrong), case(), Goal(8.0, None)
    trials = [trial(bench, name, whole, goal) for name in ("fast", "slow", "near")]
    assert [t.label for t in ranked(trials, goal, 10.0)] == ["near", "fast", "slow"]


@pytest.mark.parametrize(("each", "count"), [(0.1, 6), (12.0, 5), (25.0, LEAST_BUILT), (1e3, LEAST_BUILT)])
def test_fewer_are_built_where_a_build_takes_long(each, count):
    chosen = front(6)
    found = by_clock(chosen, each, 60.0)
    assert len(found) == count and found[0] == chosen[0] and found[-1] == chosen[-1]

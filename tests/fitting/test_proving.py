"""When a plan holds, and what is said where it does not."""

import pytest
from support.fits import StubBench, case, trial

from foveate.fitting.bench import Seat
from foveate.fitting.budget import Budget, Goal
from foveate.fitting.lane import put_to_the_proof
from foveate.fitting.proving import PAIRS, prove, worse_p99
from foveate.fitting.searching import Pace

GOAL = Goal(None, 1.0)


def proof_of(speeds, wrong=None, goal=GOAL, **about):
    bench = StubBench({"dense": 10.0} | speeds, wrong or {}, **about)
    whole = case()
    bench.add("dense")
    made = trial(bench, "plan", whole, goal)
    return prove(made, Seat(bench, "dense"), whole, goal, claims=1)


def test_a_faster_plan_that_changes_nothing_holds():
    proof = proof_of({"plan": 8.0})
    assert proof.holds and proof.speedup.low > 1 and proof.speedup.value == pytest.approx(1.25, rel=0.02)


def test_every_latency_comes_from_the_very_pairs_of_the_speedup():
    proof = proof_of({"plan": 8.0})
    assert proof.timing.ms.shape == (2, PAIRS) and proof.speedup.n == PAIRS
    again = proof.timing.speedup("dense", "plan", proof.speedup.level)
    assert again.value == pytest.approx(proof.speedup.value)


def test_a_plan_as_slow_as_the_dense_build_is_refused():
    proof = proof_of({"plan": 10.0})
    assert not proof.holds and "not proven faster than the dense baseline" in proof.refused


def test_a_plan_that_loses_too_much_on_unseen_photographs_is_refused_before_it_is_timed():
    proof = proof_of({"plan": 5.0}, wrong={"plan": 0.1})
    assert not proof.holds and proof.timing is None and proof.kept.outcome == "broken"
    assert proof.kept.said in proof.refused


def test_a_limit_that_is_missed_is_named():
    proof = proof_of({"plan": 8.0}, goal=Goal(7.5, None))
    assert not proof.holds and "7.5 allowed" in proof.refused


def test_the_limit_of_a_speedup_is_computed_once():
    goal = Budget(speedup=1.5).goal(12.0)
    assert goal.limit_ms == 8.0
    with pytest.raises(AttributeError):
        goal.limit_ms = 9.0  # type: ignore[misc]


def test_confidence_demands_that_the_loss_is_shown():
    few = Goal(None, 0.1, confident=True)  # 400 photographs cannot show a tenth of a point
    proof = proof_of({"plan": 8.0}, goal=few)
    assert not proof.holds and "--confident" in proof.refused
    assert proof_of({"plan": 8.0}, goal=Goal(None, 0.1)).holds


def test_a_slower_p99_is_told_though_the_median_is_faster():
    proof = proof_of({"plan": 8.0}, slow_calls={"plan": 0.05})
    assert proof.holds
    assert "99th percentile got worse" in worse_p99(proof.timing, "dense", "plan")
    assert worse_p99(proof_of({"plan": 8.0}).timing, "dense", "plan") is None


def lane_of(wrong):
    """Three plans, the faster the more they lose on photographs that no search saw."""
    bench = StubBench({"dense": 10.0, "a": 5.0, "b": 6.0, "c": 9.0}, {})
    whole = case()
    bench.add("dense")
    trials = [trial(bench, name, whole, GOAL) for name in "abc"]
    bench.wrong = wrong  # from here on: the search has seen nothing of it
    told = []
    _, proofs = put_to_the_proof(
        trials, whole, GOAL, Seat(bench, "dense"), 10.0, Pace(), lambda stage, share, text: told.append(stage)
    )
    return proofs, told


def test_where_all_are_refused_another_is_built_until_one_holds():
    names = "abcde"
    speeds = {name: 7.0 + 0.3 * i for i, name in enumerate(names)}
    bench, whole = StubBench({"dense": 10.0} | speeds), case()
    bench.add("dense")
    first = [trial(bench, name, whole, GOAL) for name in "ab"]
    bench.wrong = {"a": 0.1, "b": 0.1, "c": 0.1}
    left = list("cde")
    another = lambda trials: trial(bench, left.pop(0), whole, GOAL) if left else None
    quiet = lambda stage, share, text: None
    every, proofs = put_to_the_proof(first, whole, GOAL, Seat(bench, "dense"), 10.0, Pace(), quiet, another=another)
    assert [p.trial.label for p in proofs] == ["a", "b", "d"] and proofs[-1].holds and left == ["e"]
    assert [t.label for t in every] == ["a", "b", "c", "d"]  # c is seen to lose too much, and is not put to the proof
    bench.wrong, left = dict.fromkeys(names, 0.1), list("cde")
    every, proofs = put_to_the_proof(first, whole, GOAL, Seat(bench, "dense"), 10.0, Pace(), quiet, another=another)
    assert len(every) == 5 and len(proofs) == 2 and not left
    none = put_to_the_proof(first, whole, GOAL, Seat(bench, "dense"), 10.0, Pace(), quiet)
    assert [p.trial.label for p in none[1]] == ["a", "b"]


def test_where_the_first_fails_on_unseen_photographs_the_second_is_taken():
    proofs, told = lane_of({"a": 0.1})
    assert [p.trial.label for p in proofs] == ["a", "b"]
    assert [p.holds for p in proofs] == [False, True] and set(told) == {"verify"}


def test_where_none_holds_every_refusal_has_its_reason():
    proofs, _ = lane_of({"a": 0.1, "b": 0.1, "c": 0.1})
    assert [p.trial.label for p in proofs] == ["a", "b", "c"] and all(p.refused for p in proofs)


def test_several_tries_are_paid_for():
    bench, whole = StubBench({"dense": 10.0, "plan": 9.99}, noise=0.05), case()
    bench.add("dense")
    made = trial(bench, "plan", whole, GOAL)
    one, many = (prove(made, Seat(bench, "dense"), whole, GOAL, claims=claims) for claims in (1, 16))
    assert many.speedup.high / many.speedup.low > one.speedup.high / one.speedup.low

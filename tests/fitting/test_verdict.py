"""The verdict: what it cost stands beside the speed-up, and nothing is rounded across the bound it claims."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.fits import StubBench, case, trial

from foveate.fitting.baseline import Baseline
from foveate.fitting.bench import Seat
from foveate.fitting.budget import Budget
from foveate.fitting.contest import Dense
from foveate.fitting.details import Details, Parity
from foveate.fitting.findings import Findings
from foveate.fitting.lane import Lane
from foveate.fitting.proving import prove
from foveate.fitting.request import Request
from foveate.fitting.rows import rows_of
from foveate.fitting.searching import Search
from foveate.fitting.verdict import down, up, verdict_of
from foveate.hardware.energy import Energy
from foveate.planners.table import Curve


def findings(wrong=0.0, *, plan_ms=8.0, int8=None, narrowed="", slow_calls=None, **budget):
    bench = StubBench(
        {"dense openvino fp32": 10.0, "dense openvino int8": int8 or 10.0, "dense": 10.0, "plan": plan_ms}
    )
    bench.wrong = {"plan": wrong}
    bench.slow_calls = slow_calls or {}
    whole, asked = case(), Budget(**budget)
    rows = [Dense("openvino", "fp32", 10.0)]
    if int8 is not None:
        rows.append(Dense("openvino", "int8", int8, look=whole.unseen.look(whole.unseen.judge.reference)))
    best = min(rows, key=lambda r: r.latency_ms)
    seat = Seat(bench, f"dense {best.name}")
    bench.add(seat.label, precision=best.precision)
    base = Baseline(
        seat,
        best,
        best.latency_ms,
        rows[0],
        None,
        None,
        None,
        (*rows, Dense("eager", "bf16", reason="no bf16")),
        narrowed,
    )
    goal = asked.goal(base.ms)
    made = trial(bench, "plan", whole, goal)
    proof = prove(made, seat, whole, goal, claims=1)
    table = SimpleNamespace(block=Curve(tokens=[100, 197], ms=[1.0, 2.0]))
    profile = SimpleNamespace(dense_ms=10.0, table=table, disturbed=None)
    lane = Lane(Search(base.target, profile, (made.candidate,)), base.ms, (made,), (proof,))
    given = made.seat if proof.holds else seat
    look = proof.look if proof.holds else whole.unseen.look(bench.outputs(seat.label, whole.unseen.x))
    energy = {label: Energy(1.0, "modelled", "a test") for label in (seat.label, "plan")}
    details = Details(
        given, look, whole.unseen.look(whole.unseen.judge.reference), energy, Parity(90.0, 0.1, 1.0, 10), (),
        base.ms / 10.0, None, None, {"threads": 1, "seed": 0}, (),
    )  # fmt: skip
    return Findings(
        Request(budget=asked), whole, base, goal, (lane,), proof if proof.holds else None, (), details, {}, 1.0
    )


def test_a_faster_plan_says_what_it_gained_and_what_it_cost():
    told = verdict_of(findings(wrong=0.0025))  # one of 400
    assert told.outcome == "faster" and told.budget_met and told.speedup.low > 1
    assert (told.cost.name, told.cost.value, told.cost.n) == ("drop", 0.25, 400)
    assert told.cost.low <= 0.25 <= told.cost.high
    assert "points of top-1 lost" in told.reason and "400 unseen photographs" in told.reason
    assert told.budget.outcome in ("shown", "observed") and told.budget.needed > 100


def test_the_milliseconds_beside_the_speedup_are_of_the_same_pairs():
    found = findings()
    told = verdict_of(found)
    assert told.latency_ms["dense"].n == told.latency_ms["plan"].n == told.speedup.n
    ratio = told.latency_ms["dense"].p50 / told.latency_ms["plan"].p50
    assert ratio == pytest.approx(told.speedup.value, rel=0.01)
    rows = [r for r in rows_of(found) if r.name == "latency"]
    assert {r.n for r in rows} == {told.speedup.n} and all(r.tags["stage"] == "verify" for r in rows)


def test_a_p99_that_got_worse_is_said():
    assert any("99th percentile" in w for w in verdict_of(findings(slow_calls={"plan": 0.05})).warnings)
    assert not verdict_of(findings()).warnings


def test_a_plan_refused_leaves_the_dense_build_and_the_reason():
    told = verdict_of(findings(wrong=0.2))
    assert told.outcome == "dense" and not told.budget_met and told.speedup is None
    assert "not met" in told.reason and len(told.rejected) == 1 and told.cost.value == 0.0


def test_the_ladder_goes_from_full_precision_over_any_to_the_plan():
    told = verdict_of(findings(int8=9.0, plan_ms=6.0))
    assert [(r.role, r.precision) for r in told.ladder] == [("full", "fp32"), ("any", "int8"), ("plan", "fp32")]
    full, any_, plan = told.ladder
    assert full.share == 1.0 and any_.share == pytest.approx(0.9) and plan.share == pytest.approx(0.6, rel=0.02)
    assert any_.cost is not None and plan.cost is not None and full.latency_ms == pytest.approx(10.0, rel=0.01)


def test_an_int8_that_lost_stands_on_the_ladder_too():
    found = findings(int8=12.0)
    rungs = verdict_of(found).ladder
    assert [r.role for r in rungs] == ["full", "int8", "any", "plan"]
    assert rungs[1].precision == "int8" and rungs[1].share == pytest.approx(1.2) and rungs[2].precision == "fp32"


def test_only_where_nothing_narrowed_the_field_is_it_the_best_on_this_machine():
    assert verdict_of(findings()).baseline.startswith("the best dense build on this machine")
    told = verdict_of(findings(narrowed="openvino"))
    assert "on this machine" not in told.baseline + told.reason and told.narrowed


def test_a_dense_build_within_the_limit_is_enough():
    found = findings(plan_ms=9.99, latency_ms=12.0)
    assert found.met and "nothing has to be reduced" in verdict_of(found).reason


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [(1.0004, "1.000", "1.001"), (0.9996, "0.999", "1.000"), (1.25, "1.250", "1.250")],
)
def test_bounds_are_rounded_away_from_what_they_bound(value, low, high):
    assert (down(value), up(value)) == (low, high)
    assert float(down(value)) <= value + 1e-9 and float(up(value)) >= value - 1e-9


def test_every_row_carries_its_origin_and_candidates_their_loss():
    rows = rows_of(findings())
    assert all(r.origin == {"threads": 1, "seed": 0} for r in rows)
    (found,) = [r for r in rows if r.name == "candidate"]
    assert found.tags["measured"] and found.tags["chosen"] and np.isfinite(found.tags["loss"])
    reasons = [r.tags["reason"] for r in rows if r.name == "runtime"]
    assert None in reasons and "no bf16" in reasons


def test_plans_tried_are_told_in_the_milliseconds_of_the_proof():
    found = findings()
    then = replace(found, baseline=replace(found.baseline, ms=found.baseline.ms / 1.2))  # the machine has slowed since
    lanes = tuple(replace(lane, dense_ms=lane.dense_ms / 1.2) for lane in found.lanes)
    of = lambda f: [r for r in rows_of(f) if r.name == "candidate"]
    (now,), (later,) = of(found), of(replace(then, lanes=lanes))
    assert later.value == pytest.approx(now.value)
    assert later.tags["predicted_ms"] == pytest.approx(now.tags["predicted_ms"])

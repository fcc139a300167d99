"""The verdict in words and figures: what was gained, what it cost, and how sure of both one can be."""

import math
import shlex
from typing import Any

from foveate.evaluate.evidence import Kept, judge_budget, photographs_needed
from foveate.evaluate.judges import JUDGES
from foveate.fitting.baseline import Dense
from foveate.fitting.findings import Findings
from foveate.fitting.proving import worse_p99
from foveate.hardware.timer import Speedup, percentiles
from foveate.result import Result
from foveate.written import BudgetKept, Milliseconds, Rejected, Rung, SpeedUp, Value, Verdict


def verdict_of(found: Findings) -> Verdict:
    kept = kept_of(found)
    proof, points = found.proof, found.goal.points
    quality = found.details.look.quality
    profiles = [lane.search.profile for lane in found.lanes]
    warnings = [*(p.disturbed for p in profiles), *found.details.warnings]
    timing = None if proof is None else proof.timing
    worse = None if timing is None else worse_p99(timing, found.baseline.seat.label, found.build.label)
    warnings = [w for w in (worse, *warnings) if w]
    return Verdict(
        outcome="faster" if found.faster else "dense",
        outputs=found.case.facts.outputs,
        class_token_only=class_token_only(found),
        reason=claim(found) if found.faster else found.reason,
        baseline=found.baseline.claim,
        narrowed=bool(found.baseline.narrowed),
        budget=BudgetKept(
            text=str(found.request.budget), outcome=kept.outcome, said=kept.said,
            needed=None if points is None else photographs_needed(points),
            points=points, latency_ms=found.request.budget.latency_ms, speedup=found.request.budget.speedup,
        ),
        budget_met=found.met,
        speedup=None if proof is None or proof.speedup is None else _speedup(proof.speedup),
        cost=figure(quality.cost),
        agreement=figure(quality.agreement),
        latency_ms=latencies(found),
        ladder=ladder(found),
        warnings=tuple(warnings),
        next=commands(found),
        rejected=tuple(
            Rejected(plan=p.trial.build.plan.summary(), reason=p.refused)
            for lane in found.lanes for p in lane.proofs if p.refused is not None
        ),
        seconds=round(found.seconds, 1),
        stages=found.stages,
        random_weights=found.case.loaded.ref.weights == "random",
        note=found.case.loaded.note,
        command=found.request.command,
    )  # fmt: skip


def kept_of(found: Findings) -> Kept:
    """What the photographs say of the budget, for the build that is handed back."""
    if found.proof is not None:
        return found.proof.kept
    return judge_budget(found.goal.points, found.details.look.answers)


def claim(found: Findings) -> str:
    """One sentence with the speed-up and what it cost."""
    assert found.proof is not None and found.proof.speedup is not None
    s, quality = found.proof.speedup, found.details.look.quality
    words = JUDGES[quality.kind].words
    cost = quality.cost
    gained = cost.name == "drop" and cost.value < 0
    what = f"points of {words.score} {'gained' if gained else 'lost'}" if cost.name == "drop" else f"% {words.changed}"
    low, high = (
        (cost.low, cost.high) if not gained or cost.low is None or cost.high is None else (-cost.high, -cost.low)
    )
    between = "" if low is None or high is None else f" (95 % interval {down(low, 2)} to {up(high, 2)})"
    return (
        f"{nearest(s.value)} times faster than {found.baseline.claim} ({found.baseline.row.name}), "
        f"{s.level:.0%} interval "
        f"{down(s.low)} to {up(s.high)}; {abs(cost.value):.2f} {what}{between} on {cost.n} unseen photographs"
    )


def class_token_only(found: Findings) -> bool | None:
    """Is the class token all that is read after the last attention? None where the model does not say."""
    pool = getattr(found.case.model, "global_pool", None)
    return None if pool is None or found.case.facts.outputs == "masks" else pool == "token"


def figure(r: Result) -> Value:
    return Value(name=r.name, value=r.value, unit=r.unit, low=r.low, high=r.high, level=r.level, n=r.n)


def latencies(found: Findings) -> dict[Any, Milliseconds]:
    """Of both builds, from the pairs of the proof; without a proof, of the dense build alone."""
    base = found.baseline.seat.label
    if found.proof is None or found.proof.timing is None:
        return {}
    roles = {"dense": base, "plan": found.build.label}
    out = {}
    for role, label in roles.items():
        ms = found.proof.timing.of(label)
        out[role] = Milliseconds(p50=found.proof.timing.median(label), p99=percentiles(ms)["p99"], n=len(ms))
    return out


def ladder(found: Findings) -> tuple[Rung, ...]:
    """Best full precision, best int8 where that lost, best of any precision, the plan; shares are of the first.

    Milliseconds are brought to those of the proof's pairs, so that one figure stands for one build.
    """
    base, share, proof = found.baseline, found.details.full_share, found.proof
    dense_ms = base.ms
    if proof is not None and proof.timing is not None:
        dense_ms = proof.timing.median(base.seat.label)
    scale = dense_ms / base.ms
    rungs = [_rung("full", base.full, dense_ms / share, 1.0)]
    tried = [r for r in base.table if not r.full and r.latency_ms is not None]
    if tried and base.row.full:
        row = min(tried, key=lambda r: r.latency_ms or math.inf)
        ms = (row.latency_ms or math.nan) * scale
        rungs.append(_rung("int8", row, ms, ms * share / dense_ms))
    rungs.append(_rung("any", base.row, dense_ms, share))
    if proof is not None and proof.speedup is not None:
        target, quality = found.build.plan.target, found.details.look.quality
        rungs.append(
            Rung(
                role="plan", runtime=target.runtime, precision=target.precision,
                latency_ms=dense_ms / proof.speedup.value, share=share / proof.speedup.value,
                cost=figure(quality.cost), agreement=quality.agreement.value,
                plan=", ".join(map(str, found.build.plan.steps)),
            )
        )  # fmt: skip
    return tuple(rungs)


def _rung(role: str, row: Dense, ms: float, share: float) -> Rung:
    quality = None if row.look is None else row.look.quality
    return Rung(
        role=role,  # type: ignore[arg-type]
        runtime=row.runtime, precision=row.precision, latency_ms=ms, share=share,
        cost=None if quality is None else figure(quality.cost),
        agreement=None if quality is None else quality.agreement.value,
    )  # fmt: skip


def commands(found: Findings) -> tuple[str, ...]:
    """What one does next."""
    out = shlex.quote(str(found.request.out))
    next_ = [f"foveate run {out} PHOTOGRAPH", f"foveate serve {out}"]
    if found.points:
        next_[0] += " --budget-ms MS"
    if found.request.data is not None and found.case.unseen.sample.labels is not None:
        next_.append(f"foveate evaluate {out} --data {shlex.quote(str(found.request.data))}")
    return tuple(next_)


def _speedup(s: Speedup) -> SpeedUp:
    return SpeedUp(value=s.value, low=s.low, high=s.high, level=s.level, n=s.n)


def down(value: float, places: int = 3) -> str:
    """A lower bound, never rounded up."""
    return f"{math.floor(value * 10**places + 1e-9) / 10**places:.{places}f}"


def up(value: float, places: int = 3) -> str:
    """An upper bound, never rounded down."""
    return f"{math.ceil(value * 10**places - 1e-9) / 10**places:.{places}f}"


def nearest(value: float, places: int = 3) -> str:
    return f"{value:.{places}f}"

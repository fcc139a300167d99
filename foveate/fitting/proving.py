"""The proof: is a plan faster than the dense baseline, within the budget, on photographs that no search has seen?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from foveate.evaluate.evidence import Kept, judge_budget
from foveate.evaluate.judges import Quality
from foveate.fitting.bench import Seat, Timing, by_turns
from foveate.fitting.budget import Goal
from foveate.fitting.case import Case, Look
from foveate.fitting.trials import Trial
from foveate.hardware.timer import Speedup, percentiles, proven

PAIRS = 700  # measured pairs behind the verdict where they fit: MLPerf's rule wants 662 for a p99
VERIFIED = 4  # plans that may be put to the proof, one after the other


@dataclass(frozen=True)
class Proof:
    """What became of a trial. `refused` is None where it holds: the reason is a value, written by nobody else."""

    trial: Trial
    look: Look  # on unseen photographs
    kept: Kept
    timing: Timing | None = None  # the pairs behind the speed-up, and behind every latency beside it
    speedup: Speedup | None = None
    refused: str | None = None

    @property
    def holds(self) -> bool:
        return self.refused is None

    @property
    def quality(self) -> Quality:
        return self.look.quality


def prove(
    trial: Trial,
    base: Seat,
    case: Case,
    goal: Goal,
    *,
    claims: int,
    pool: Sequence[Trial] = (),
    seconds: float = 40.0,
    progress: Callable[[float, str], None] = lambda share, text: None,
) -> Proof:
    """Put a trial to the proof on fresh pairs and unseen photographs.

    Args:
        claims: plans that may be tried until one holds, which the interval of the speed-up has to pay for.
        pool: the other trials, whose losses help to tell this one's.
    """
    look = case.unseen.look(trial.seat.bench.outputs(trial.label, case.unseen.x))
    kept = judge_budget(
        goal.points, look.answers, search=trial.look.answers, pool=[t.look.answers for t in pool if t is not trial]
    )  # fmt: skip
    proof = Proof(trial, look, kept)
    if (reason := lossy(kept, look.quality, goal)) is not None:
        return replace(proof, refused=f"{trial.build.plan.summary()}: {reason}")
    timing, found = time_pairs(trial.seat, base, claims=claims, seconds=seconds, progress=progress)
    proof = replace(proof, timing=timing, speedup=found)
    reason = slow(found, timing.median(trial.label), goal)
    return proof if reason is None else replace(proof, refused=f"{trial.build.plan.summary()}: {reason}")


def lossy(kept: Kept, quality: Quality, goal: Goal) -> str | None:
    """Why what is lost on unseen photographs is too much; None where it is not."""
    if goal.points is not None and kept.outcome == "broken":
        return kept.said
    if goal.confident and kept.outcome != "shown":
        return f"--confident asks for a loss that is shown; {kept.said}"
    worst = next((r.value for r in quality.others if r.name == "worst_cosine"), None)
    if goal.min_cosine is not None and worst is not None and worst < goal.min_cosine:
        return f"the worst cosine on unseen photographs is {np.floor(worst * 1e4) / 1e4:.4f}, below {goal.min_cosine:g}"
    return None


def slow(found: Speedup, plan_ms: float, goal: Goal) -> str | None:
    """Why it is not fast enough; None where it is."""
    if found.low <= 1:
        return (
            f"not proven faster than the dense baseline ({found.value:.3f} times, "
            f"{found.level:.0%} interval from {found.low:.3f})"
        )
    if goal.limit_ms is not None and plan_ms > goal.limit_ms:
        return f"takes {plan_ms:.4g} ms, {goal.limit_ms:.4g} allowed"
    return None


def time_pairs(
    seat: Seat, base: Seat, *, claims: int, seconds: float, progress: Callable[[float, str], None]
) -> tuple[Timing, Speedup]:
    """Pairs of the dense baseline and the plan until the question is settled; all of them, and what they prove."""
    each = float(np.median(by_turns(base, seat, 5, stage="warm").ms.sum(axis=0)))
    most = int(np.clip(seconds * 1e3 / each, 64, PAIRS))
    parts: list[np.ndarray] = []

    def measure(count: int) -> tuple[np.ndarray, np.ndarray]:
        ms = by_turns(base, seat, count, stage="verify").ms
        parts.append(ms)
        done = sum(p.shape[1] for p in parts)
        progress(min(1.0, done / most), f"{done} pairs")
        return ms[0], ms[1]

    # A fast model takes all its pairs in one look, which costs no correction; a slow one stops once it is clear.
    first = most if most == PAIRS else min(64, most)
    found, _, _ = proven(measure, level=0.99, first=first, most=most, claims=claims)
    return Timing((base.label, seat.label), np.concatenate(parts, axis=1), "verify"), found


def worse_p99(timing: Timing, base: str, plan: str) -> str | None:
    """A warning where the slowest calls got slower though the median did not; None without enough samples."""
    dense, mine = (percentiles(timing.of(label))["p99"] for label in (base, plan))
    if dense is None or mine is None or mine <= dense:
        return None
    return f"the 99th percentile got worse: {mine:.4g} ms, dense {dense:.4g}"

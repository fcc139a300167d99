"""Which candidates to build, and which of those built to put to the proof. Pure functions of what is known so far."""

from collections.abc import Sequence

import numpy as np

from foveate.fitting.budget import Goal
from foveate.fitting.trials import Trial
from foveate.planning import Candidate

WORTH_BUILDING = 0.98  # of the dense build's predicted latency: what is expected to gain less is within the noise
SHORTLIST_SLACK = 3.0  # plans expected to lose up to so many times the budget are built too: then it is measured


def bias(trials: Sequence[Trial], predicted_dense_ms: float) -> float:
    """Measured over predicted latency, both relative to the dense build: the median so far; 1 before any trial."""
    if not trials:
        return 1.0
    return float(np.median([t.share * predicted_dense_ms / t.candidate.predicted_ms for t in trials]))


def shortlist(
    candidates: Sequence[Candidate],
    trials: Sequence[Trial],
    goal: Goal,
    *,
    dense_ms: float,
    predicted_dense_ms: float,
    most: int,
) -> list[Candidate]:
    """The candidates worth building next; which of them keep the budget is then measured.

    Without a limit they are spread over the latencies of those that may keep the budget. Under one they are those of
    least loss around it, and one clearly faster, since predictions are good to some per cent; what the trials so far
    took corrects them.

    Args:
        dense_ms: measured; predicted_dense_ms: what the latency table says of the same model.
    """
    built = [t.candidate.steps for t in trials]
    able = [c for c in candidates if c.steps and c.steps not in built]
    if goal.points is not None:
        able = [c for c in able if c.expected_drop <= SHORTLIST_SLACK * goal.points]
    if goal.limit_ms is None:
        able = [c for c in able if c.predicted_ms <= WORTH_BUILDING * predicted_dense_ms]
        by_speed = sorted(able, key=lambda c: c.predicted_ms)
        picks = np.linspace(0, len(by_speed) - 1, min(most, len(by_speed))).round().astype(int)
        return [by_speed[i] for i in picks]
    cap = goal.limit_ms * predicted_dense_ms / dense_ms / bias(trials, predicted_dense_ms)
    near = sorted((c for c in able if c.predicted_ms <= 1.02 * cap), key=lambda c: c.loss)
    faster = [c for c in near[most - 1 :] if c.predicted_ms <= 0.95 * cap][:1]
    return near[: most - len(faster)] + faster


def ranked(trials: Sequence[Trial], goal: Goal, dense_ms: float) -> list[Trial]:
    """The trials that may hold, the most promising first: the fastest, or under a limit the least lossy within it."""
    able = [t for t in trials if goal.points is None or t.kept.outcome != "broken"]
    if goal.limit_ms is None:
        return sorted(able, key=lambda t: t.share)
    limit = goal.limit_ms
    return sorted(able, key=lambda t: (t.share * dense_ms > limit, t.look.quality.distance.value))

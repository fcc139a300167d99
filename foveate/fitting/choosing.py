"""Which candidates to build, and which of those built to put to the proof. Pure functions of what is known so far."""

import math
from collections.abc import Sequence

import numpy as np

from foveate.evaluate.evidence import likely_kept
from foveate.fitting.budget import Goal
from foveate.fitting.trials import Trial
from foveate.planning import Candidate

WORTH_BUILDING = 0.98  # of the dense build's predicted latency: what is expected to gain less is within the noise
SLACK = 3.0  # plans expected to lose up to so many times the budget are built too: then it is measured
WORTH_KNOWING = 0.003  # of the dense latency: a trial takes as long as building, and is expected to gain as much
FALLBACKS = 2  # plans that keep the budget on the photographs of the search, to be put to the proof in turn


def bias(trials: Sequence[Trial], predicted_dense_ms: float) -> float:
    """Measured over predicted latency, both relative to the dense build: the median so far; 1 before any trial."""
    if not trials:
        return 1.0
    return float(np.median([t.share * predicted_dense_ms / t.candidate.predicted_ms for t in trials]))


def worth_building(candidates: Sequence[Candidate], goal: Goal, predicted_dense_ms: float) -> list[Candidate]:
    """Those that may keep the budget and, where speed is sought, are expected to gain some; by rising latency."""
    able = [c for c in candidates if c.steps]
    if goal.points is not None:
        able = [c for c in able if c.expected_drop <= SLACK * goal.points]
    if goal.by_loss:
        able = [c for c in able if c.predicted_ms <= WORTH_BUILDING * predicted_dense_ms]
    return sorted(able, key=lambda c: c.predicted_ms)


def next_by_loss(
    candidates: Sequence[Candidate], trials: Sequence[Trial], goal: Goal, predicted_dense_ms: float, unseen: int
) -> Candidate | None:
    """The candidate to build next where the fastest that keeps the budget is sought; None where none is worth it.

    The one whose expected gain is largest: how much faster it is than the fastest that keeps the budget so far, times
    how likely it keeps it on the unseen photographs. Where that is next to nothing, one more that stands behind it,
    should it be refused on those, until there are `FALLBACKS`.

    Args:
        unseen: how many photographs the proof has.
    """
    built = [t.candidate.steps for t in trials]
    left = [c for c in worth_building(candidates, goal, predicted_dense_ms) if c.steps not in built]
    kept = [t for t in trials if t.kept.outcome != "broken"]
    best = min((t.share for t in kept), default=1.0)

    def share(c: Candidate) -> float:
        return c.predicted_ms / predicted_dense_ms * bias(trials, predicted_dense_ms)

    def gain(c: Candidate, over: float) -> float:
        if goal.points is None:
            return max(0.0, over - share(c))
        odds = likely_kept(
            goal.points, distance=c.loss, expected=c.expected_drop, unseen=unseen,
            tried=[t.look.answers for t in trials], labelled=c.drop is not None,
        )  # fmt: skip
        return max(0.0, over - share(c)) * odds

    most = max(left, key=lambda c: gain(c, best), default=None)
    if most is not None and (not trials or gain(most, best) >= WORTH_KNOWING):
        return most
    behind = [c for c in left if share(c) >= best]
    return max(behind, key=lambda c: gain(c, 1.0), default=None) if kept and len(kept) < FALLBACKS else None


def more_careful(
    candidates: Sequence[Candidate], trials: Sequence[Trial], goal: Goal, predicted_dense_ms: float, unseen: int
) -> Candidate | None:
    """Where all that were built are refused: the candidate of largest expected gain among those that move the outputs
    at most half as far as any of them."""
    least = min((t.candidate.loss for t in trials), default=math.inf)
    calm = [c for c in candidates if c.loss <= least / 2]
    return next_by_loss(calm, [], goal, predicted_dense_ms, unseen) if goal.by_loss else None


def next_under_limit(
    candidates: Sequence[Candidate],
    trials: Sequence[Trial],
    goal: Goal,
    *,
    dense_ms: float,
    predicted_dense_ms: float,
) -> Candidate | None:
    """The candidate to build next under a limit: the least lossy that is expected to be within it.

    Predictions are good to some per cent, and what the trials so far took corrects them: it may be predicted to be a
    little over, and every third is clearly faster.

    Args:
        dense_ms: measured; predicted_dense_ms: what the latency table says of the same model.
    """
    assert goal.limit_ms is not None
    built = [t.candidate.steps for t in trials]
    able = [c for c in worth_building(candidates, goal, predicted_dense_ms) if c.steps not in built]
    cap = goal.limit_ms * predicted_dense_ms / dense_ms / bias(trials, predicted_dense_ms)
    within = [c for c in able if c.predicted_ms <= 1.02 * cap]
    faster = [c for c in within if c.predicted_ms <= 0.95 * cap]
    if len(trials) % 3 == 2 and faster:
        within = faster
    return min(within, key=lambda c: c.loss, default=None)


def next_to_build(
    candidates: Sequence[Candidate],
    trials: Sequence[Trial],
    goal: Goal,
    *,
    dense_ms: float,
    predicted_dense_ms: float,
    unseen: int,
) -> Candidate | None:
    """The candidate that is worth most to know of after these trials; None where none is."""
    if goal.by_loss:
        return next_by_loss(candidates, trials, goal, predicted_dense_ms, unseen)
    return next_under_limit(candidates, trials, goal, dense_ms=dense_ms, predicted_dense_ms=predicted_dense_ms)


def ranked(trials: Sequence[Trial], goal: Goal, dense_ms: float) -> list[Trial]:
    """The trials that may hold, the most promising first: the fastest, or under a limit the least lossy within it."""
    able = [t for t in trials if goal.points is None or t.kept.outcome != "broken"]
    if goal.limit_ms is None:
        return sorted(able, key=lambda t: t.share)
    limit = goal.limit_ms
    return sorted(able, key=lambda t: (t.share * dense_ms > limit, t.look.quality.distance.value))

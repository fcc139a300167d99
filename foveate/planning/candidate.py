"""A plan worth building, and what it is expected to cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foveate.planning.evaluator import Evaluator
from foveate.plans import Step

Steps = tuple[Step, ...]


@dataclass(frozen=True)
class Candidate:
    """A plan with what it is expected to cost. Losses are of images that the search did not see."""

    steps: Steps
    predicted_ms: float
    speedup: float  # predicted: dense / this
    macs_ratio: float
    loss: float  # mean distance of the outputs from the dense model's, by their judge: KL in nats, or 1 - cosine
    loss_low: float  # 95 % bootstrap interval over images
    loss_high: float
    agreement: float  # share of the dense model's answers that stay
    drop: float | None  # points of right answers lost, with labels: of top-1, kNN or pixels
    expected_drop: float  # the same smoothed over all plans tried: steadier; without labels, points of disagreement
    search_loss: float  # on the images that were searched on, so too good
    images: int  # unseen ones


def judge(
    evaluator: Evaluator,
    steps: Steps,
    chunks: Sequence[int],
    *,
    ms: float,
    dense_ms: float,
    search_loss: float,
    expected: Callable[[float], float] | None = None,
    seed: int = 0,
) -> Candidate:
    """Score a plan on `chunks` of the images. `expected`: points lost, of a loss; by default its own."""
    f, right, seen = evaluator.facts, evaluator.dense_right(chunks), evaluator.score(steps, chunks)
    loss, (low, high) = float(seen.distance.mean()), _interval(seen.distance, seed)
    drop = None if right is None or seen.right is None else 100 * float(right.mean() - seen.right.mean())
    agreement = float((1 - seen.changed).mean())
    own = 100 * float(seen.changed.mean()) if drop is None else max(0.0, drop)
    return Candidate(
        steps=steps, predicted_ms=ms, speedup=dense_ms / ms, macs_ratio=f.macs_ratio(f.cut(steps)),
        loss=loss, loss_low=low, loss_high=high,
        agreement=agreement, drop=drop, expected_drop=own if expected is None else expected(loss),
        search_loss=search_loss, images=len(seen.distance),
    )  # fmt: skip


def _interval(values: np.ndarray, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (resamples, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)

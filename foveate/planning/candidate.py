"""A plan worth building, and what it is expected to cost."""

from collections.abc import Sequence
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
    kl: float  # mean KL(dense || reduced), nats
    kl_low: float  # 95 % bootstrap interval over images
    kl_high: float
    agreement: float  # share of images with the dense model's top-1 class
    drop: float | None  # points of top-1 accuracy lost, with labels
    expected_drop: float  # the same smoothed over all plans tried: steadier; without labels, points of disagreement
    search_kl: float  # on the images that were searched on, so too good
    images: int  # unseen ones


def judge(
    evaluator: Evaluator,
    steps: Steps,
    chunks: Sequence[int],
    *,
    ms: float,
    dense_ms: float,
    search_kl: float,
    scale: float | None = None,
    seed: int = 0,
) -> Candidate:
    """Score a plan on `chunks` of the images. `scale`: points lost per root of a nat; by default its own."""
    f, right, seen = evaluator.facts, evaluator.dense_right(chunks), evaluator.score(steps, chunks)
    kl, (low, high) = float(seen.kl.mean()), _interval(seen.kl, seed)
    drop = None if right is None or seen.right is None else 100 * float(right.mean() - seen.right.mean())
    own = 100 * float((~seen.agree).mean()) if drop is None else max(0.0, drop)
    return Candidate(
        steps=steps, predicted_ms=ms, speedup=dense_ms / ms, macs_ratio=f.macs_ratio(f.cut(steps)),
        kl=kl, kl_low=low, kl_high=high,
        agreement=float(seen.agree.mean()), drop=drop, expected_drop=own if scale is None else scale * kl**0.5,
        search_kl=search_kl, images=len(seen.kl),
    )  # fmt: skip


def _interval(values: np.ndarray, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (resamples, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)

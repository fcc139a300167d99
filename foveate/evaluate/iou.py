"""Intersection over union of masks: pixels counted a photograph at a time, a bootstrap over photographs."""

from collections.abc import Iterator

import numpy as np

from foveate.errors import InputError
from foveate.evaluate.masks import VOID
from foveate.result import Result, Tag

_RESAMPLES, _AT_ONCE = 1000, 100


class Overlap:
    """Adds up masks, a photograph at a time."""

    def __init__(self, classes: int) -> None:
        self.classes, self.counts = classes, list[np.ndarray]()

    def add(self, found: np.ndarray, truth: np.ndarray) -> None:
        """Classes [h w] of every pixel, found and true; what is VOID in truth does not count."""
        self.counts.append(confusion(found, truth, self.classes))

    def result(self, level: float = 0.95, seed: int = 0, tags: dict[str, Tag] | None = None) -> Result:
        """Mean IoU in % over the classes that occur, counted over all pixels of all photographs."""
        counts = np.stack(self.counts)
        low, high = np.nanquantile(_drawn(counts, seed), [(1 - level) / 2, (1 + level) / 2])
        own: dict[str, Tag] = {"pixels": round(100 * float(np.trace(counts.sum(0)) / counts.sum()), 2)}
        return Result(
            name="mIoU", value=mean_iou(counts.sum(0)), unit="%", low=float(low), high=float(high), level=level,
            n=len(counts), tags=own | (tags or {}),
        )  # fmt: skip


def lost_overlap(given: Overlap, other: Overlap, *, least: float = 0.0, level: float = 0.95, seed: int = 0) -> Result:
    """Points of mIoU lost from one model to another; negative where it gained.

    The bootstrap is paired: both are counted over the same photographs in every resample, so that what makes a
    photograph hard for both cancels.

    Args:
        least: points; each end is at least so far from the value. What no photograph shows, no resample does either.
    """
    a, b = np.stack(given.counts), np.stack(other.counts)
    value = mean_iou(a.sum(0)) - mean_iou(b.sum(0))
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.nanquantile(np.subtract(_drawn(a, seed), _drawn(b, seed)), tails)
    return Result(
        name="drop", value=value, unit="points", low=max(-100.0, min(float(low), value - least)),
        high=min(100.0, max(float(high), value + least)), level=level, n=len(a),
    )  # fmt: skip


def confusion(found: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by (true class, found class), int64 [classes classes].

    Raises:
        InputError: other shapes, or a class out of range.
    """
    found, truth = np.asarray(found), np.asarray(truth)
    if found.shape != truth.shape:
        raise InputError(f"a mask of shape {found.shape} against {truth.shape}; allowed: the same")
    judged = truth != VOID
    found, truth = found[judged].astype(np.int64), truth[judged].astype(np.int64)
    for name, mask in (("found", found), ("true", truth)):
        if mask.size and (mask.min() < 0 or mask.max() >= classes):
            wrong = mask.max() if mask.max() >= classes else mask.min()
            raise InputError(f"{name} class {wrong}; allowed: 0 to {classes - 1}, void: {VOID}")
    return np.bincount(truth * classes + found, minlength=classes**2).reshape(classes, classes)


def iou(counts: np.ndarray) -> np.ndarray:
    """IoU of every class in 0..1, NaN for one that neither occurs nor is found; counts [... classes classes]."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)
    union = counts.sum(-2) + counts.sum(-1) - hits
    return np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)


def mean_iou(counts: np.ndarray) -> float:
    """In %, over the classes that occur or are found; NaN where nothing was judged."""
    return float(_mean_iou(np.asarray(counts)))


def _mean_iou(counts: np.ndarray) -> np.ndarray:
    each = iou(counts)
    there = (~np.isnan(each)).sum(-1)
    return np.divide(100 * np.nansum(each, -1), there, out=np.full(there.shape, np.nan), where=there > 0)


def _drawn(counts: np.ndarray, seed: int) -> np.ndarray:
    """Mean IoU of resampled photographs; the same ones for the same seed and as many photographs."""
    flat = counts.reshape(len(counts), -1).astype(float)
    sums = (weights @ flat for weights in _weights(len(counts), seed))
    return np.concatenate([_mean_iou(s.reshape(-1, *counts.shape[1:])) for s in sums])


def _weights(count: int, seed: int) -> Iterator[np.ndarray]:
    """How often each photograph is drawn, [resamples count], so many resamples at a time."""
    rng = np.random.default_rng(seed)
    for _ in range(0, _RESAMPLES, _AT_ONCE):
        yield rng.multinomial(count, np.full(count, 1 / count), size=_AT_ONCE).astype(float)

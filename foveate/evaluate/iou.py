"""Intersection over union of masks: torchmetrics counts, a bootstrap over the photographs gives the interval."""

from typing import Any

import numpy as np
import torch

from foveate.errors import NotAvailable
from foveate.evaluate.masks import VOID
from foveate.result import Result, Tag


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
        rng, n = np.random.default_rng(seed), len(counts)
        drawn = [mean_iou(counts[rng.integers(0, n, n)].sum(0)) for _ in range(1000)]
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        own: dict[str, Tag] = {"pixels": round(100 * float(np.trace(counts.sum(0)) / counts.sum()), 2)}
        return Result(
            name="mIoU", value=mean_iou(counts.sum(0)), unit="%", low=float(low), high=float(high), level=level, n=n,
            tags=own | (tags or {}),
        )  # fmt: skip


def confusion(found: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by (true class, found class), int64 [classes classes]."""
    count = _torchmetrics().multiclass_confusion_matrix
    a, b = (torch.from_numpy(np.ascontiguousarray(x)).long() for x in (found, truth))
    return count(a, b, num_classes=classes, ignore_index=VOID).numpy()


def iou(counts: np.ndarray) -> np.ndarray:
    """IoU of every class in 0..1, NaN for one that neither occurs nor is found; counts [classes classes]."""
    hits = np.diag(counts).astype(float)
    union = counts.sum(0) + counts.sum(1) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def mean_iou(counts: np.ndarray) -> float:
    """In %, over the classes that occur or are found."""
    return 100 * float(np.nanmean(iou(counts)))


def _torchmetrics() -> Any:
    try:
        from torchmetrics.functional import classification
    except ImportError:
        raise NotAvailable("segmentation needs torchmetrics: pip install 'foveate[train]'") from None
    return classification

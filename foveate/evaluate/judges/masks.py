"""Masks: logits [S C h w], a class a pixel; of one logit [S 1 h w], class 1 where it is above 0 (`two_classes`).

Photographs are taken one at a time and a strip of one at a time: masks of many would not fit into the memory twice.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, final

import numpy as np

from foveate.errors import InputError
from foveate.evaluate import metrics
from foveate.evaluate.iou import Overlap, lost_overlap
from foveate.evaluate.judges._base import JUDGES, Judge, Quality, Words
from foveate.evaluate.judges._logits import answers, divergence, names_of
from foveate.evaluate.masks import VOID
from foveate.facts import Outputs

_AT_ONCE = 2**22  # logits whose softmax is held at a time


@JUDGES.register("masks")
@final
class Masks(Judge):
    """Distance is the mean of KL(given || answer) over pixels; the score is mean IoU, and `right` the share of judged
    pixels, since a single photograph has no mean IoU worth the name."""

    kind: ClassVar[Outputs] = "masks"
    words = Words("masks", "mIoU", "same pixels", "points of pixel accuracy lost", "changed pixels", "KL", "nats")
    axes = ("photographs", "classes", "height", "width")

    def distance(self, answer: np.ndarray, at: np.ndarray | None = None) -> np.ndarray:
        answer, at = self._aligned(answer, at)
        return _each(_mean_divergence, self.reference, answer, at)

    def changed(self, answer: np.ndarray, at: np.ndarray | None = None) -> np.ndarray:
        answer, at = self._aligned(answer, at)
        return _each(_share_changed, self.reference, answer, at)

    def right(self, answer: np.ndarray, at: np.ndarray | None = None) -> np.ndarray | None:
        """A photograph that is void throughout counts as right: of no model is it a mistake."""
        answer, at = self._aligned(answer, at)
        if self.labels is None:
            return None
        found = np.empty(len(at))
        for i, (row, label) in enumerate(zip(answer, self.labels[at], strict=True)):
            judged = label != VOID
            found[i] = (answers(row[None])[0] == label)[judged].mean() if judged.any() else 1.0
        return found

    def quality(self, answer: np.ndarray) -> Quality:
        """Intervals are over photographs (`metrics.mean_share`, `iou.lost_overlap`)."""
        changed = self.changed(answer)
        same = metrics.mean_share("agreement", 1 - changed, seed=self.seed)
        far = metrics.mean_of("kl", self.distance(answer), "nats", seed=self.seed)
        if self.labels is None:
            return Quality(self.kind, same, far)
        given, other = (self._overlap(outputs) for outputs in (self.reference, answer))
        hidden = 100 * metrics.unseen_share(len(changed)) * float((changed == 0).mean())
        lost = lost_overlap(given, other, least=hidden, seed=self.seed)
        return Quality(self.kind, same, far, other.result(seed=self.seed), lost)

    @classmethod
    def shown(cls, row: np.ndarray, classes: Sequence[str] | None = None, k: int = 5) -> list[tuple[str, float]]:
        """Classes with their shares of pixels; those that have none are left out."""
        row = metrics.checked(np.asarray(row)[None], cls.axes)
        count = max(2, row.shape[1])
        if classes is not None and len(classes) != count:
            raise InputError(f"{len(classes)} class names for masks of {count} classes; allowed: one each")
        shares = np.bincount(answers(row)[0].ravel(), minlength=count) / answers(row)[0].size
        order = np.argsort(-shares, kind="stable")[:k]
        return [(names_of(count, classes)[i], float(shares[i])) for i in order if shares[i] > 0]

    def _fitting(self, labels: np.ndarray) -> np.ndarray:
        count, *size = self.reference.shape[1:]
        if labels.shape != (len(self.reference), *size):
            raise InputError(
                f"true masks of shape {labels.shape} for outputs of {self.reference.shape}; "
                f"allowed: {(len(self.reference), *size)}"
            )
        last, void = max(2, count) - 1, labels == VOID
        wrong = labels[~void & ((labels < 0) | (labels > last))]
        if wrong.size:
            raise InputError(f"true masks hold the class {wrong[0]}; allowed: 0 to {last}, void: {VOID}")
        if void.all():
            raise InputError(f"true masks are void ({VOID}) throughout; allowed: at least one judged pixel")
        return labels

    def _overlap(self, outputs: np.ndarray) -> Overlap:
        assert self.labels is not None
        total = Overlap(max(2, self.reference.shape[1]))
        for row, label in zip(outputs, self.labels, strict=True):
            total.add(answers(row[None])[0], label)
        return total


def _each(
    compared: Callable[[np.ndarray, np.ndarray], float], reference: np.ndarray, answer: np.ndarray, at: np.ndarray
) -> np.ndarray:
    return np.array([compared(reference[i], row) for i, row in zip(at, answer, strict=True)])


def _mean_divergence(reference: np.ndarray, answer: np.ndarray) -> float:
    """Of [C h w], in the precision given or float32, whose rounding is far below any KL that matters."""
    total = sum(float(divergence(a, b).sum()) for a, b in _strips(reference, answer))
    return total / reference[0].size


def _share_changed(reference: np.ndarray, answer: np.ndarray) -> float:
    return float((answers(reference[None]) != answers(answer[None])).mean())


def _strips(*masks: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Rows of pixels as samples [1 C rows w], few enough at a time."""
    count, high, wide = masks[0].shape
    step = max(1, _AT_ONCE // (count * wide))
    for top in range(0, high, step):
        parts = (m[None, :, top : top + step] for m in masks)
        yield tuple(p.astype(np.result_type(p, np.float32), copy=False) for p in parts)

"""Classifiers: logits [S C], the answer their largest; of one logit [S 1], yes where it is above 0 (`two_classes`)."""

from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np

from foveate.errors import InputError
from foveate.evaluate import metrics
from foveate.evaluate.judges._base import JUDGES, Judge, Quality, Words
from foveate.evaluate.judges._logits import answers, divergence, names_of, two_classes
from foveate.evaluate.metrics import Tags
from foveate.facts import Outputs
from foveate.result import Result

AXES = ("samples", "classes")


@JUDGES.register("classes")
@final
class Classes(Judge):
    """Distance is KL(given || answer); an answer is changed or right as a whole."""

    kind: ClassVar[Outputs] = "classes"
    words = Words("logits", "top-1", "same top-1", "points lost", "changed answers", "KL", "nats")
    axes = AXES

    def distance(self, answer: np.ndarray, at: np.ndarray | None = None) -> np.ndarray:
        answer, at = self._aligned(answer, at)
        return kl(self.reference[at], answer)

    def changed(self, answer: np.ndarray, at: np.ndarray | None = None) -> np.ndarray:
        answer, at = self._aligned(answer, at)
        return (answers(answer) != answers(self.reference[at])).astype(np.float64)

    def right(self, answer: np.ndarray, at: np.ndarray | None = None) -> np.ndarray | None:
        answer, at = self._aligned(answer, at)
        return None if self.labels is None else (answers(answer) == self.labels[at]).astype(np.float64)

    def quality(self, answer: np.ndarray) -> Quality:
        score = lost = None
        if self.labels is not None:
            score = accuracy(answer, self.labels).model_copy(update={"name": "accuracy"})
            lost = drop(self.reference, answer, self.labels)
        same, far = agreement(self.reference, answer), mean_kl(self.reference, answer, seed=self.seed)
        return Quality(self.kind, same, far, score, lost)

    @classmethod
    def shown(cls, row: np.ndarray, classes: Sequence[str] | None = None, k: int = 5) -> list[tuple[str, float]]:
        return top(row, classes, k)

    def _fitting(self, labels: np.ndarray) -> np.ndarray:
        return _labelled(self.reference, labels)


def accuracy(
    logits: np.ndarray, labels: np.ndarray, *, k: int = 1, level: float = 0.95, tags: Tags | None = None
) -> Result:
    """Share of samples whose label is among the `k` largest outputs, in %, with Wilson's interval."""
    return metrics.share(f"top{k}", _hits(logits, labels, k), level, tags)


def agreement(dense: np.ndarray, other: np.ndarray, *, level: float = 0.95, tags: Tags | None = None) -> Result:
    """Share of samples on which both models answer the same class, in %, with Wilson's interval."""
    dense, other = metrics.paired(dense, other, AXES)
    return metrics.share("agreement", answers(dense) == answers(other), level, tags)


def kl(dense: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(softmax(dense) || softmax(other)) of every sample, in nats, float64 [S]; stable for any finite logits."""
    dense, other = metrics.paired(dense, other, AXES)
    return divergence(dense.astype(np.float64), other.astype(np.float64))


def mean_kl(
    dense: np.ndarray, other: np.ndarray, *, level: float = 0.95, seed: int = 0, tags: Tags | None = None
) -> Result:
    """Mean of `kl` over the samples, in nats, with a bootstrap interval (BCa; percentile above 2,000 samples)."""
    return metrics.mean_of("kl", kl(dense, other), "nats", level, seed, tags)


def drop(
    dense: np.ndarray, other: np.ndarray, labels: np.ndarray, *, level: float = 0.95, tags: Tags | None = None
) -> Result:
    """Top-1 accuracy lost from `dense` to `other` on the same samples: see `metrics.lost_points`."""
    return metrics.lost_points(_hits(dense, labels, 1), _hits(other, labels, 1), level, tags)


def compare(
    dense: np.ndarray,
    other: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
    tags: Tags | None = None,
) -> list[Result]:
    """All about `other` beside `dense`: agreement, kl, sqnr, max_abs and, with labels, top1 and drop."""
    results = [
        agreement(dense, other, level=level, tags=tags),
        mean_kl(dense, other, level=level, seed=seed, tags=tags),
        metrics.sqnr(dense, other, tags=tags),
        metrics.max_abs(dense, other, tags=tags),
    ]
    if labels is not None:
        results.append(accuracy(other, labels, level=level, tags=tags))
        results.append(drop(dense, other, labels, level=level, tags=tags))
    return results


def top(logits: np.ndarray, classes: Sequence[str] | None = None, k: int = 5) -> list[tuple[str, float]]:
    """The `k` likeliest classes of one sample's logits [C] with their softmax probabilities, likeliest first.

    Of one logit: what stands for yes with its sigmoid alone, or both where `classes` names two.
    """
    from scipy.special import softmax

    one = metrics.checked(np.asarray(logits, dtype=np.float64).reshape(1, -1), AXES)
    p = softmax(two_classes(one)[0])
    if one.shape[1] == 1 and (classes is None or len(classes) == 1):
        return [("yes" if classes is None else classes[0], float(p[1]))]
    if classes is not None and len(classes) != len(p):
        raise InputError(f"{len(classes)} class names for {one.shape[1]} outputs; allowed: one each")
    names = names_of(len(p), classes)
    return [(names[i], float(p[i])) for i in np.argsort(-p, kind="stable")[:k]]


def _hits(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """bool [S]. A tie at the k-th place counts as a miss only if as many outputs are strictly larger."""
    logits = metrics.checked(logits, AXES)
    labels = _labelled(logits, np.asarray(labels))
    if k == 1:
        return answers(logits) == labels
    logits = two_classes(logits)
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    return (logits > own).sum(1) < k


def _labelled(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if labels.shape != logits.shape[:1]:
        raise InputError(f"{len(labels)} labels for {len(logits)} outputs; allowed: one each")
    last = max(2, logits.shape[1]) - 1
    if labels.min() < 0 or labels.max() > last:
        raise InputError(f"label {labels.max()} or {labels.min()}; allowed: 0 to {last}, the model's classes")
    return labels

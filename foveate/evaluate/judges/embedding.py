"""Embeddings [S C]: what counts is who is near whom, by cosine.

Neighbours of a photograph are the k = 10 (or all others, if fewer) most alike of the same photographs. Judged as a
whole (`quality`; the others without `at`), a build is taken to have embedded everybody: its vectors are compared among
themselves, and a rotation of all of them changes no neighbour. Of a few photographs (`at`) their new vectors are
compared with the given model's of all: a stand-in for a search, which has not run everybody, and stricter.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, final

import numpy as np

from foveate.errors import InputError
from foveate.evaluate import metrics
from foveate.evaluate.judges._base import JUDGES, Judge, Quality, Words
from foveate.facts import Outputs
from foveate.result import Result

NEIGHBOURS = 10
_ROWS = 512  # queries whose cosines with the whole gallery are held at a time
_DECIMALS = 12  # cosines that differ by less are a tie: float64 tells copies of a photograph apart by its rounding


@JUDGES.register("embedding")
@final
class Embedding(Judge):
    """Distance is 1 - cosine to the given model's vector. The score is leave-one-out kNN: the label of most of the
    neighbours; ties go to the label whose neighbours are more alike in sum, then to the smaller."""

    kind: ClassVar[Outputs] = "embedding"
    words = Words("embedding", "kNN accuracy", "same neighbours", "points lost", "changed neighbours", "1 - cosine", "")
    axes = ("photographs", "channels")

    def distance(self, answer: np.ndarray, at: np.ndarray | None = None) -> np.ndarray:
        answer, at = self._aligned(answer, at)
        # Half the squared distance of unit vectors: nothing cancels, and equal vectors, zero too, are 0 apart.
        return 0.5 * ((_unit(self.reference[at]) - _unit(answer)) ** 2).sum(1)

    def changed(self, answer: np.ndarray, at: np.ndarray | None = None) -> np.ndarray:
        found, _ = self._neighbours(answer, at)
        return 1.0 - self._kept(found, at)

    def right(self, answer: np.ndarray, at: np.ndarray | None = None) -> np.ndarray | None:
        if self.labels is None:
            self._aligned(answer, at)
            return None
        return self._voted(*self._neighbours(answer, at), at).astype(np.float64)

    def quality(self, answer: np.ndarray) -> Quality:
        """The interval of neighbour agreement is `metrics.mean_share`; that of kNN takes photographs for independent,
        which votes among the same photographs are only nearly."""
        near = self._neighbours(answer, None)
        same = metrics.mean_share("agreement", self._kept(near[0], None), seed=self.seed)
        far = self.distance(answer)
        moved = metrics.mean_of("cosine_distance", far, "", seed=self.seed)
        score = lost = None
        if self.labels is not None:
            right, kept = self._voted(*self._given, None), self._voted(*near, None)
            score, lost = metrics.share("knn", kept), metrics.lost_points(right, kept)
        low, high = (None if end is None else 1 - end for end in (moved.high, moved.low))
        mean = moved.model_copy(update={"name": "cosine", "value": 1 - moved.value, "low": low, "high": high})
        worst = Result(name="worst_cosine", value=1 - float(far.max()), unit="", n=len(far))
        return Quality(self.kind, same, moved, score, lost, (mean, worst))

    @classmethod
    def shown(cls, row: np.ndarray, classes: Sequence[str] | None = None, k: int = 5) -> list[tuple[str, float]]:
        """Nothing: a vector alone tells people nothing."""
        return []

    def _fitting(self, labels: np.ndarray) -> np.ndarray:
        if labels.shape != self.reference.shape[:1]:
            raise InputError(f"labels of shape {labels.shape} for {len(self.reference)} embeddings; allowed: one each")
        return labels

    @cached_property
    def _given(self) -> tuple[np.ndarray, np.ndarray]:
        """The given model's own neighbours."""
        return nearest(self.reference, self.reference, NEIGHBOURS, itself=np.arange(len(self.reference)))

    def _neighbours(self, answer: np.ndarray, at: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        answer, index = self._aligned(answer, at)
        return nearest(answer, answer if at is None else self.reference, NEIGHBOURS, itself=index)

    def _kept(self, found: np.ndarray, at: np.ndarray | None) -> np.ndarray:
        """float64 [s]: the share of the given model's neighbours that is among those found."""
        given = self._given[0] if at is None else self._given[0][np.asarray(at)]
        if not given.shape[1]:
            return np.ones(len(given))  # a photograph alone has no neighbour to lose
        return (given[:, :, None] == found[:, None]).any(2).mean(1)

    def _voted(self, found: np.ndarray, cosine: np.ndarray, at: np.ndarray | None) -> np.ndarray:
        """bool [s]: the neighbours' label is the photograph's own."""
        assert self.labels is not None
        kinds, code = np.unique(self.labels, return_inverse=True)
        own = code if at is None else code[np.asarray(at)]
        if not found.shape[1]:
            return np.zeros(len(own), dtype=bool)
        votes, alike = np.zeros((2, len(found), len(kinds)))
        at_vote = np.arange(len(found))[:, None], code[found]
        np.add.at(votes, at_vote, 1.0)
        np.add.at(alike, at_vote, cosine)
        most = votes == votes.max(1, keepdims=True)
        return np.where(most, alike.round(_DECIMALS), -np.inf).argmax(1) == own


def nearest(
    query: np.ndarray, gallery: np.ndarray, k: int, *, itself: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(indices int64 [q k], cosines float64 [q k]) of the gallery's `k` most alike, the most alike first.

    Ties go by index.

    Args:
        query, gallery: [q C], [g C]; a zero vector has cosine 0 with everybody.
        k: at least 0; as many as there are, where there are fewer.
        itself: int [q]: the place of each query in the gallery, which it must not find.

    Raises:
        InputError: not two sets of vectors of the same length, or not finite.
    """
    query, gallery = (metrics.checked(x, Embedding.axes) for x in (query, gallery))
    if query.shape[1] != gallery.shape[1]:
        raise InputError(f"{query.shape[1]} channels against a gallery of {gallery.shape[1]}; allowed: the same")
    k = min(k, len(gallery) - (itself is not None))
    q, g = _unit(query), _unit(gallery)
    index, cosine = np.empty((len(q), k), dtype=np.int64), np.empty((len(q), k))
    for at in range(0, len(q), _ROWS):
        rows = slice(at, at + _ROWS)
        alike = (q[rows] @ g.T).round(_DECIMALS)
        if itself is not None:
            alike[np.arange(len(alike)), itself[rows]] = -np.inf
        index[rows] = np.argsort(-alike, axis=1, kind="stable")[:, :k]
        cosine[rows] = np.take_along_axis(alike, index[rows], axis=1)
    return index, cosine


def _unit(x: np.ndarray) -> np.ndarray:
    """float64 [S C] of length 1; zero stays zero."""
    x = x.astype(np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float64).tiny)

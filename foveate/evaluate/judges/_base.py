"""The contract of a judge: one kind of output, what it means for an answer to change, and what a budget counts.

Nothing outside of this folder takes an argmax or a softmax of a model's outputs.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from foveate.errors import InputError
from foveate.evaluate.metrics import checked, sqnr_db
from foveate.facts import Outputs
from foveate.registry import Registry
from foveate.result import Result


@dataclass(frozen=True)
class Words:
    """How reports, tables and the command line call a kind's figures."""

    output: str  # the name of the model's output in a server's answer: "logits", "embedding", "masks"
    score: str  # how good: "top-1", "kNN accuracy", "mIoU"
    agreement: str  # what share stays: "same top-1", "same neighbours", "same pixels"
    lost: str  # what a budget counts: "points lost", "points of pixel accuracy lost"
    changed: str  # the same without labels: "changed answers", "changed neighbours", "changed pixels"
    distance: str  # how far outputs moved: "KL", "1 - cosine"
    unit: str  # of the distance


@dataclass(frozen=True)
class Quality:
    """A build's answers against the given model's on the same photographs; every figure with its interval and n."""

    kind: Outputs
    agreement: Result  # "agreement": % of the answers that stay
    distance: Result  # "kl" or "cosine_distance": mean over photographs
    score: Result | None = None  # "accuracy", "knn" or "mIoU", in %; needs labels
    drop: Result | None = None  # "drop": points of `score` lost, paired; needs labels
    others: tuple[Result, ...] = ()  # the worst cosine, say

    @property
    def cost(self) -> Result:
        """What a budget in points counts: points of the score lost; without labels, the % of answers that changed."""
        if self.drop is not None:
            return self.drop
        a = self.agreement
        low = None if a.high is None else 100 - a.high
        high = None if a.low is None else 100 - a.low
        return a.model_copy(
            update={"name": "changed", "unit": "points", "value": 100 - a.value, "low": low, "high": high}
        )

    @property
    def points_lost(self) -> float:
        return self.cost.value

    @property
    def right(self) -> float:
        """% of answers that are right; without labels, that are the given model's."""
        return (self.score or self.agreement).value

    def results(self) -> list[Result]:
        """Everything, for a file of results."""
        return [r for r in (self.score, self.drop, self.agreement, self.distance, *self.others) if r is not None]


class Judge(ABC):
    """Holds what the given model answered on a set of photographs, and compares other answers with it.

    Abstract; judges are final. Args of every method: `answer` [s ...], outputs for the photographs `at` (indices into
    the reference; by default all of them, in order).
    """

    kind: ClassVar[Outputs]
    words: ClassVar[Words]
    axes: ClassVar[tuple[str, ...]]  # of outputs, as errors name them

    def __init__(self, reference: np.ndarray, labels: np.ndarray | None = None, *, seed: int = 0) -> None:
        """
        Args:
            reference: float [S ...], the given model's outputs.
            labels: int [S], or for masks uint8 [S h w]; None without.
            seed: of the bootstraps.

        Raises:
            InputError: outputs of another shape than the kind has, not finite, or labels that do not fit.
        """
        self.reference = checked(reference, self.axes)
        self.labels = None if labels is None else self._fitting(np.asarray(labels))
        self.seed = seed

    @abstractmethod
    def distance(self, answer: np.ndarray, at: np.ndarray | None = None) -> np.ndarray:
        """float64 [s]: how far each output moved, 0 where it did not: what a search makes small."""

    @abstractmethod
    def changed(self, answer: np.ndarray, at: np.ndarray | None = None) -> np.ndarray:
        """float64 [s] in 0..1: what share of each answer is another than the given model's."""

    @abstractmethod
    def right(self, answer: np.ndarray, at: np.ndarray | None = None) -> np.ndarray | None:
        """float64 [s] in 0..1: how right each answer is by the labels; None without labels."""

    @abstractmethod
    def quality(self, answer: np.ndarray) -> Quality:
        """All photographs' figures, with 95 % intervals."""

    @classmethod
    @abstractmethod
    def shown(cls, row: np.ndarray, classes: Sequence[str] | None = None, k: int = 5) -> list[tuple[str, float]]:
        """One photograph's output [...] for people: up to `k` of (name, share in 0..1), the largest first.

        Raises:
            InputError: as many names in `classes` as the output has none of.
        """

    @abstractmethod
    def _fitting(self, labels: np.ndarray) -> np.ndarray:
        """The labels, once they are seen to fit the reference; else InputError."""

    def _aligned(self, answer: np.ndarray, at: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """(the answer, the photographs it is for), once they are seen to fit each other."""
        at = np.arange(len(self.reference)) if at is None else np.asarray(at)
        wanted = (len(at), *self.reference.shape[1:])
        if np.shape(answer) != wanted:
            raise InputError(f"outputs of shape {np.shape(answer)} against {wanted}; allowed: the same")
        return checked(answer, self.axes), at


JUDGES: Registry[Judge] = Registry("kind of output")


def make_judge(kind: str, reference: np.ndarray, labels: np.ndarray | None = None, *, seed: int = 0) -> Judge:
    """The judge of a kind of output, holding the given model's outputs.

    Raises:
        InputError: an unknown kind, or what `Judge` refuses.
    """
    return JUDGES[kind](reference, labels, seed=seed)


def sound(reference: np.ndarray, answer: np.ndarray) -> float:
    """How exactly outputs [S ...] of any kind are met, in dB: see `metrics.sqnr_db`."""
    return sqnr_db(reference, answer)


def shown(kind: str, row: np.ndarray, classes: Sequence[str] | None = None, k: int = 5) -> list[tuple[str, float]]:
    """One photograph's output for people: see `Judge.shown`. Of classes the likeliest with their probabilities, of one
    logit the share of yes, of masks the classes with their shares of pixels, of an embedding nothing."""
    return JUDGES[kind].shown(row, classes, k)

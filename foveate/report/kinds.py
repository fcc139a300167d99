"""How a page speaks of each kind of output: names of results, and words for what they say."""

from collections.abc import Iterable
from dataclasses import dataclass

from foveate.facts import OUTPUTS, Outputs
from foveate.result import Result


@dataclass(frozen=True)
class Kind:
    """`score`, `agreement`, `changed`, `distance` and `unit` are those of the kind's judge (`Judge.words`)."""

    score: str
    score_result: str  # the Result's name
    agreement: str
    changed: str
    distance: str
    distance_result: str
    unit: str
    things: str  # what of them stays or changes, in a sentence
    same: str  # a sentence about an agreement in percent
    stays: str  # of an operating point's quality where there are no labels

    @property
    def agreement_head(self) -> str:
        return f"{self.agreement}, %"

    @property
    def distance_head(self) -> str:
        return f"{self.distance}, {self.unit}" if self.unit else self.distance

    @property
    def distance_title(self) -> str:
        return f"{self.distance} to the dense model{f', {self.unit}' if self.unit else ''}"


KINDS: dict[Outputs, Kind] = {
    "classes": Kind(
        score="top-1", score_result="accuracy", agreement="same top-1", changed="changed answers",
        distance="KL", distance_result="kl", unit="nats", things="answers",
        same="The same top-1 as the dense model on {}", stays="% answered as the whole model",
    ),
    "embedding": Kind(
        score="kNN accuracy", score_result="knn", agreement="same neighbours", changed="changed neighbours",
        distance="1 \u2212 cosine", distance_result="cosine_distance", unit="", things="neighbours",
        same="{} of the dense model's neighbours stay", stays="% of the whole model's neighbours",
    ),
    "masks": Kind(
        score="mIoU", score_result="mIoU", agreement="same pixels", changed="changed pixels",
        distance="KL", distance_result="kl", unit="nats", things="pixels",
        same="{} of pixels stay as the dense model has them", stays="% of pixels as the whole model",
    ),
}  # fmt: skip
PERCENT = {"accuracy", "knn", "mIoU", "agreement", "drop"}  # results in shares, percent or points
DISTANCES = {"kl", "cosine_distance"}


def outputs_of(results: Iterable[Result]) -> Outputs:
    """What the results say in their tag `outputs`; classes where none does."""
    said = [r.tags.get("outputs") for r in results]
    for kind in OUTPUTS:
        if kind in said:
            return kind
    return "classes"

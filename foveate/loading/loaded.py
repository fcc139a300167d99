"""A model with all that has to travel with it."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from foveate.facts import Outputs
from foveate.plans import ModelRef
from foveate.preprocess import Preprocess

RANDOM_NOTE = (
    "random weights: latencies are real, but predictions and every figure of accuracy or agreement mean nothing"
)
Origin = Literal["bundled", "hub", "file", "random", "object"]


@dataclass(frozen=True)
class Loaded:
    """A model ready to be reduced, and what has to travel with it."""

    model: nn.Module  # in eval mode
    ref: ModelRef
    preprocess: Preprocess
    classes: tuple[str, ...] | None
    outputs: Outputs  # what it answers with, by itself or by its user's word
    note: str | None = None  # to be shown loudly
    said: tuple[str, ...] = ()  # what was done to fit the weights to the model, a line each, for the user

"""What is fitted: the loaded model, its photographs in two parts, and what the model itself answers on them."""

from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from foveate.adapters import describe
from foveate.errors import InputError
from foveate.evaluate.answers import Sample, on_device, open_sample, reference_outputs
from foveate.evaluate.evidence import Answers, photographs_needed
from foveate.evaluate.judges import JUDGES, Judge, Quality
from foveate.facts import Facts
from foveate.fitting.request import LEAST_IMAGES, Request
from foveate.fitting.stages import Progress, Say
from foveate.loading.load import Loaded, load


@dataclass(frozen=True)
class Part:
    """Some of the photographs, and the judge that knows the given model's answers on them."""

    sample: Sample
    judge: Judge

    def __len__(self) -> int:
        return len(self.sample.x)

    @property
    def x(self) -> np.ndarray:
        """Preprocessed, float32 [S 3 h w]."""
        return self.sample.x

    def look(self, outputs: np.ndarray) -> "Look":
        """What a build's outputs on these photographs lost."""
        return Look(self.judge.quality(outputs), answers_of(self.judge, outputs))


@dataclass(frozen=True)
class Look:
    """A build's answers compared with the given model's: figures with intervals, and photograph by photograph."""

    quality: Quality
    answers: Answers


@dataclass(frozen=True)
class Case:
    """A model and its photographs. What is searched on is never what the verdict is given on."""

    loaded: Loaded
    facts: Facts
    search: Part
    unseen: Part

    @property
    def model(self) -> nn.Module:
        return self.loaded.model


def prepare(request: Request, progress: Progress, say: Say, share: float = 0.6) -> Case:
    """Load the model and the photographs, and have the model answer.

    Args:
        share: of the photographs, that searches see.

    Raises:
        InputError: for what cannot be loaded, and for too few photographs.
    """
    progress("load", 0.0, request.shown)
    loaded = load(
        request.name, weights=request.weights, random_weights=request.random_weights,
        allow_pickle=request.allow_pickle, outputs=request.outputs, preprocess=request.preprocess,
        classes=request.classes, **request.options,
    )  # fmt: skip
    for line in loaded.said:
        say(line)
    facts = replace(describe(loaded.model), outputs=loaded.outputs)
    whole = open_sample(request.data, loaded, facts.outputs, limit=request.images, seed=request.seed)
    if len(whole) < LEAST_IMAGES:
        raise InputError(
            f"{request.data} holds {len(whole)} photographs; at least {LEAST_IMAGES} are needed to tell what a plan "
            "costs"
        )
    search, unseen = whole.split(share, request.seed)
    say(photographs_said(request.budget.points, len(unseen)))
    parts = []
    for share, sample, text in ((0.3, search, "search"), (0.7, unseen, "unseen")):
        progress("load", share, f"the given model on {len(sample)} {text} photographs")
        with on_device(loaded.model, request.device):
            reference = reference_outputs(loaded.model, sample.x)
        parts.append(Part(sample, JUDGES[facts.outputs](reference, sample.labels, seed=request.seed)))
    return Case(loaded, facts, *parts)


def photographs_said(points: float | None, unseen: int) -> str:
    """How many photographs the budget needs, and how many there are: told before anything long starts."""
    if points is None:
        return f"{unseen} unseen photographs to tell what a plan costs; no points are capped"
    needed = photographs_needed(points)
    if needed is None:
        return f"{unseen} unseen photographs; no number of them shows that nothing at all is lost"
    enough = "enough" if unseen >= needed else "so it can be seen to be kept, not shown"
    return (
        f"a budget of {points:g} points is shown by {needed} unseen photographs without a changed answer; "
        f"there are {unseen}: {enough}"
    )


def answers_of(judge: Judge, outputs: np.ndarray) -> Answers:
    """Photograph by photograph, as the gate takes it."""
    right, given = judge.right(outputs), judge.right(judge.reference)
    lost = None if right is None or given is None else given - right
    words = judge.words
    counted = words.lost if lost is not None else f"% of {words.changed.removeprefix('changed ')} changed"
    return Answers(judge.distance(outputs), judge.changed(outputs), lost, counted=counted, nats=judge.kind == "classes")

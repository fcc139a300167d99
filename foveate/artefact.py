"""A folder that can be deployed: the model file for one runtime, its plan, its preprocessing, its class names.

model.*          for the runtime that plan.json names
plan.json        model, steps, runtime, precision, batch (foveate.plans.Plan)
preprocess.json  how a photograph becomes the input (foveate.preprocess.Preprocess)
model.json       the model file's name, what it answers with, class names, and whether the weights are random
frontier.json    where the model is elastic: operating points and their model files (foveate.elastic.Frontier)
gallery.*        of a model that embeds: vectors of photographs, named in model.json (foveate.evaluate.gallery.Gallery)
"""

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ConfigDict

from foveate.elastic import Frontier, Point
from foveate.elastic.frontier import FILE as FRONTIER
from foveate.errors import InputError
from foveate.evaluate.gallery import Gallery
from foveate.evaluate.judges import shown
from foveate.evaluate.judges.showing import drawn
from foveate.facts import Outputs
from foveate.files import Told, inside, printable, read_as, replacing_folder, write_text
from foveate.hardware.device import default_threads
from foveate.plans import Plan
from foveate.preprocess import Preprocess, read_image
from foveate.programs import check_trusted, remember
from foveate.runtimes import RUNTIMES, Runner, why_not
from foveate.target import Target

if TYPE_CHECKING:
    from torch import nn


class ModelCard(Told):
    """What `model.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    file: str
    outputs: Outputs = "classes"
    classes: tuple[str, ...] | None = None
    gallery: tuple[str, ...] | None = None  # names of the photographs in gallery.safetensors
    note: str | None = None  # shown wherever the model is: random weights, for one


def check_target(target: Target) -> None:
    """Raise InputError where this machine has not what `target` names, saying why."""
    if reason := why_not(target):
        raise InputError(f"runtime {target.runtime} cannot run {target.precision} here: {reason}")


def export(
    model: "nn.Module",
    plan: Plan,
    folder: str | Path,
    *,
    preprocess: Preprocess,
    classes: Sequence[str] | None = None,
    note: str | None = None,
    calibration: np.ndarray | None = None,
) -> Path:
    """Write `model`, reduced as `plan` says, for the plan's runtime into `folder`; returns the folder.

    Args:
        model: the host, as `foveate.load` gave it; it is left as it was.
        calibration: float32 [S 3 h w] preprocessed images; int8 needs them.

    Raises:
        InputError: where the plan does not fit the model, the runtime cannot be used, or the folder not be written.
    """
    check_target(plan.target)
    with replacing_folder(folder) as part:
        write_artefact(part, model, plan, preprocess=preprocess, classes=classes, note=note, calibration=calibration)
    return Path(folder)


def write_artefact(
    folder: Path,
    model: "nn.Module",
    plan: Plan,
    *,
    preprocess: Preprocess,
    classes: Sequence[str] | None = None,
    note: str | None = None,
    calibration: np.ndarray | None = None,
) -> Path:
    """As `export`, into a folder that exists; returns the model file."""
    from foveate.adapters import adapt, describe

    facts = describe(model)
    if (facts.tokens, facts.depth, facts.prefix) != (plan.model.tokens, plan.model.depth, plan.model.prefix):
        raise InputError(
            f"the plan is for {plan.model.tokens} tokens ({plan.model.prefix} prefix) and {plan.model.depth} blocks; "
            f"this {facts.family} has {facts.tokens} ({facts.prefix} prefix) and {facts.depth}"
        )
    shape = (plan.target.batch, *facts.image)
    file = RUNTIMES[plan.target.runtime].build(
        adapt(model, plan.steps).eval(), folder, shape=shape, precision=plan.target.precision,
        device=plan.target.device, calibration=calibration,
    )  # fmt: skip
    write_card(folder, plan, file.name, preprocess, classes, note, outputs=facts.outputs)
    return file


def write_card(
    folder: Path,
    plan: Plan,
    file: str,
    preprocess: Preprocess,
    classes: Sequence[str] | None,
    note: str | None,
    outputs: Outputs = "classes",
) -> None:
    """What stands beside the model file `file`, which is there already."""
    if RUNTIMES[plan.target.runtime].code:
        remember(folder / file)
    plan.save(folder / "plan.json")
    preprocess.save(folder / "preprocess.json")
    card = ModelCard(file=file, outputs=outputs, classes=tuple(classes) if classes else None, note=note)
    write_text(folder / "model.json", card.model_dump_json(indent=2) + "\n")


def write_gallery(folder: str | Path, names: Sequence[str], vectors: np.ndarray) -> None:
    """Put photographs beside a model that embeds, for `foveate run` and the server to show the nearest of.

    Args:
        folder: one with its card written.
        vectors: float32 [S C], what the model answers to the photographs `names`.

    Raises:
        InputError: a model that does not embed, or vectors and names that make no gallery.
    """
    folder = Path(folder)
    card = read_card(folder)
    if card.outputs != "embedding":
        raise InputError(f"a gallery for {folder}, which answers with {card.outputs}; allowed: embedding")
    names = [printable(name) for name in names]
    Gallery(tuple(names), np.asarray(vectors, dtype=np.float32)).save(folder)
    card = card.model_copy(update={"gallery": tuple(names)})
    write_text(folder / "model.json", card.model_dump_json(indent=2) + "\n")


class Artefact:
    """A deployed model, opened: photographs or arrays in; classes, vectors or masks out, by the model's kind. Needs no
    torch to be installed where its runtime needs none (onnxruntime, openvino)."""

    def __init__(
        self, folder: str | Path, *, threads: int | None = None, device: str | None = None, at: int | None = None,
        trust: bool = False,
    ) -> None:  # fmt: skip
        """
        Args:
            trust: open model files that are programs (of `eager` and `compile`) whoever made them; else only those that
                this user made on this machine. Files of onnxruntime and openvino are data and need no trust.
            device: to run on, of the kind that it was built for; by default the plan's.
            at: operating point of `frontier` that calls go to; by default the plan's own file.

        Raises:
            InputError: where the folder is not one foveate wrote, or its runtime is not available here.
        """
        self.folder = Path(folder)
        self.plan = Plan.load(self.folder)
        changed = {} if device is None else {"device": Target.of(device=device).device}
        self.target = self.plan.target.model_copy(update=changed)
        check_target(self.target)
        self.preprocess = Preprocess.load(self.folder / "preprocess.json")
        self.card = read_card(self.folder)
        self.frontier = Frontier.load(self.folder) if (self.folder / FRONTIER).exists() else None
        self.threads = threads or self.target.threads or default_threads()
        self._runners: dict[str, Runner] = {}
        self.trust = trust
        self.at = at
        self._runner(at)

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.card.classes

    @property
    def outputs(self) -> Outputs:
        """What the model answers with."""
        return self.card.outputs

    @cached_property
    def gallery(self) -> Gallery | None:
        """The photographs beside the model, where there are any.

        Raises:
            InputError: where they are missing or damaged.
        """
        return None if self.card.gallery is None else Gallery.load(self.folder, self.card.gallery)

    def within_ms(self, budget: float) -> Point:
        """From now on calls go to the best operating point whose median is within `budget`, which is returned.

        Raises:
            InputError: where the model has no frontier, or no point is that fast.
        """
        if self.frontier is None:
            raise InputError(f"{self.folder} has no operating points to choose from: fit it with --points 6, say")
        self.at = self.frontier.within_ms(budget)
        return self.frontier.points[self.at]

    def __call__(self, images: np.ndarray, at: int | None = None) -> np.ndarray:
        """Preprocessed images [S 3 h w] float32 -> outputs [S ...] float32, in batches of the plan's size: logits
        [S classes], vectors [S C], or logits of pixels [S classes h w].

        `at`: an operating point for this call alone.
        """
        call, size, rows = self._runner(self.at if at is None else at), self.plan.target.batch, []
        for first in range(0, len(images), size):
            chunk = images[first : first + size]
            padded = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])
            rows.append(call(padded)[: len(chunk)])
        return np.concatenate(rows)

    def _runner(self, at: int | None) -> Runner:
        """Loads the model file of an operating point when it is first asked for."""
        name = self.card.file
        if at is not None:
            if self.frontier is None or not 0 <= at < len(self.frontier):
                raise InputError(f"operating point {at} of {self.folder}; it has {len(self.frontier or ())}")
            name = self.frontier.points[at].file
        if name not in self._runners:
            file = inside(self.folder, name)
            if not file.exists():
                raise InputError(f"{self.folder} lacks its model file {name}")
            if RUNTIMES[self.target.runtime].code and not self.trust:
                check_trusted(file)
            self._runners[name] = RUNTIMES[self.target.runtime].load(
                file, precision=self.target.precision, threads=self.threads, device=self.target.device
            )
        return self._runners[name]

    def top(self, image: str | Path, k: int = 5) -> list[tuple[str, float]]:
        """The `k` likeliest classes of a photograph, with their probabilities.

        Raises:
            InputError: a model that answers with something else; names what to call.
        """
        self._answers("classes")
        return shown("classes", self(self._inputs([image]))[0], self.classes, k)

    def embed(self, images: Sequence[str | Path]) -> np.ndarray:
        """The vectors of photographs, float32 [S C].

        Raises:
            InputError: as `top`.
        """
        self._answers("embedding")
        return self(self._inputs(images))

    def masks(self, images: Sequence[str | Path]) -> np.ndarray:
        """The class of every pixel that the model sees of photographs, uint8 [S h w]; not what the crop loses.

        Raises:
            InputError: as `top`.
        """
        self._answers("masks")
        return np.stack([drawn(logits) for logits in self(self._inputs(images))])

    def _inputs(self, images: Sequence[str | Path]) -> np.ndarray:
        return np.stack([self.preprocess(read_image(image, channels=self.preprocess.channels)) for image in images])

    def _answers(self, kind: Outputs) -> None:
        calls: dict[Outputs, str] = {"classes": "top(image)", "embedding": "embed(images)", "masks": "masks(images)"}
        if self.outputs != kind:
            raise InputError(f"{self.folder} answers with {self.outputs}, not {kind}; allowed: {calls[self.outputs]}")

    def timed(self, images: Sequence[str | Path]) -> list[tuple[np.ndarray, float]]:
        """(outputs [...], latency_ms of the model alone) of each photograph, in calls of their own."""
        inputs = [self._inputs([image]) for image in images]
        self(inputs[0])  # the first call of a runtime pays for its start
        rows = []
        for x in inputs:
            began = time.perf_counter()
            found = self(x)[0]
            rows.append((found, 1e3 * (time.perf_counter() - began)))
        return rows


def read_card(folder: Path) -> ModelCard:
    return read_as(ModelCard, folder / "model.json")

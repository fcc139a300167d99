"""A folder that can be deployed: the model file for one runtime, its plan, its preprocessing, its class names.

model.*          for the runtime that plan.json names
plan.json        model, steps, runtime, precision, batch (foveate.plans.Plan)
preprocess.json  how a photograph becomes the input (foveate.preprocess.Preprocess)
model.json       the model file's name, class names, and whether the weights are random
frontier.json    where the model is elastic: operating points and their model files (foveate.elastic.Frontier)
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from foveate.elastic import Frontier, Point
from foveate.elastic.frontier import FILE as FRONTIER
from foveate.errors import InputError
from foveate.files import read_as, replacing_folder, write_text
from foveate.hardware.device import default_threads
from foveate.plans import Plan
from foveate.preprocess import Preprocess, read_image
from foveate.runtimes import RUNTIMES, Runner

if TYPE_CHECKING:
    from torch import nn


class Card(BaseModel):
    """What `model.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    file: str
    classes: tuple[str, ...] | None = None
    note: str | None = None  # shown wherever the model is: random weights, for one


def check_runtime(runtime: str, precision: str) -> None:
    """Raise InputError where `runtime` cannot run `precision` on this machine, saying why."""
    if reason := RUNTIMES[runtime].why_not(precision):
        raise InputError(f"runtime {runtime} cannot run {precision} here: {reason}")


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
    check_runtime(plan.target.runtime, plan.target.precision)
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
        adapt(model, plan.steps).eval(), folder, shape=shape, precision=plan.target.precision, calibration=calibration
    )
    write_card(folder, plan, file.name, preprocess, classes, note)
    return file


def write_card(
    folder: Path, plan: Plan, file: str, preprocess: Preprocess, classes: Sequence[str] | None, note: str | None
) -> None:
    """What stands beside the model file `file`, which is there already."""
    plan.save(folder / "plan.json")
    preprocess.save(folder / "preprocess.json")
    card = Card(file=file, classes=tuple(classes) if classes else None, note=note)
    write_text(folder / "model.json", card.model_dump_json(indent=2) + "\n")


class Artefact:
    """A deployed model, opened: photographs or arrays in, logits or named classes out. Needs no torch to be installed
    where its runtime needs none (onnxruntime, openvino)."""

    def __init__(self, folder: str | Path, *, threads: int | None = None, at: int | None = None) -> None:
        """
        Args:
            at: operating point of `frontier` that calls go to; by default the plan's own file.

        Raises:
            InputError: where the folder is not one foveate wrote, or its runtime is not available here.
        """
        self.folder = Path(folder)
        self.plan = Plan.load(self.folder)
        check_runtime(self.plan.target.runtime, self.plan.target.precision)
        self.preprocess = Preprocess.load(self.folder / "preprocess.json")
        self.card = read_card(self.folder)
        self.frontier = Frontier.load(self.folder) if (self.folder / FRONTIER).exists() else None
        self.threads = threads or self.plan.target.threads or default_threads()
        self._runners: dict[str, Runner] = {}
        self.at = at
        self._runner(at)

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.card.classes

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
        """Preprocessed images [S 3 h w] float32 -> logits [S classes] float32, in batches of the plan's size.

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
            file = self.folder / name
            if not file.exists():
                raise InputError(f"{self.folder} lacks its model file {name}")
            self._runners[name] = RUNTIMES[self.plan.target.runtime].load(
                file, precision=self.plan.target.precision, threads=self.threads
            )
        return self._runners[name]

    def top(self, image: str | Path, k: int = 5) -> list[tuple[str, float]]:
        """The `k` likeliest classes of a photograph, with their probabilities."""
        from foveate.evaluate import top

        return top(self(self.preprocess(read_image(image))[None])[0], self.classes, k)

    def timed(self, images: Sequence[str | Path], k: int = 5) -> list[dict[str, Any]]:
        """A row a photograph: `image`, `latency_ms` of the model alone, `top`."""
        from foveate.evaluate import top

        inputs = [self.preprocess(read_image(image))[None] for image in images]
        self(inputs[0])  # the first call of a runtime pays for its start
        rows = []
        for image, x in zip(images, inputs, strict=True):
            began = time.perf_counter()
            logits = self(x)
            ms = (time.perf_counter() - began) * 1e3
            rows.append({"image": str(image), "latency_ms": round(ms, 3), "top": top(logits[0], self.classes, k)})
        return rows


def read_card(folder: Path) -> Card:
    return read_as(Card, folder / "model.json")

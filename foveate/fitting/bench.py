"""Builds beside each other: the files that may be deployed, in the process of their runtime, timed and scored there."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
from torch import nn

from foveate.adapters import Reduced, adapt, describe
from foveate.artefact import Artefact
from foveate.evaluate import Images, open_images
from foveate.hardware.timer import speedup
from foveate.loading.load import BUNDLED, Loaded
from foveate.plans import ModelRef, Plan, Step
from foveate.preprocess import Preprocess
from foveate.runtimes import RUNTIMES, Worker
from foveate.target import Target


@dataclass
class Build:
    """A plan built for its runtime."""

    label: str
    plan: Plan
    file: Path
    image: tuple[int, int, int]  # channels, height, width
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def latency_ms(self) -> float:
        """Median so far."""
        return float(np.median(self.latencies_ms))


class Bench:
    """Builds of one model in one (runtime, precision, batch, threads), all in one worker process. A context manager."""

    def __init__(
        self,
        model: nn.Module,
        ref: ModelRef,
        folder: Path,
        *,
        runtime: str,
        precision: str,
        batch: int,
        threads: int,
        calibration: np.ndarray | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.ref, self.folder = model, ref, folder
        self.runtime, self.precision, self.batch, self.threads = runtime, precision, batch, threads
        self.calibration = calibration if precision == "int8" else None
        self.builds: dict[str, Build] = {}
        self.worker = Worker(runtime, threads)
        self._inputs: dict[tuple[int, int, int], np.ndarray] = {}
        self._noise, self._seed = np.random.default_rng(seed), seed

    def __enter__(self) -> "Bench":
        self.worker.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.worker.__exit__(kind, e, tb)

    def add(
        self, label: str, steps: Sequence[Step] = (), planner: str | None = None, module: Reduced | None = None
    ) -> Build:
        """Build the model reduced by `steps` (`module`, where that is made already) and load it in the worker."""
        made = module or adapt(self.model, steps).eval()
        plan = Plan(
            model=self.ref, steps=tuple(steps), planner=planner,
            target=Target.of(runtime=self.runtime, precision=self.precision, batch=self.batch, threads=self.threads),
        )  # fmt: skip
        where = self.folder / f"{self.runtime}-{self.precision}-{len(self.builds)}"
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir(parents=True)
        file = RUNTIMES[self.runtime].build(
            made, where, shape=(self.batch, *made.facts.image), precision=self.precision, calibration=self.calibration
        )  # fmt: skip
        self.worker.load(label, file, precision=self.precision)
        self.builds[label] = build = Build(label, plan, file, made.facts.image)
        return build

    def drop(self, label: str) -> None:
        """Forget a build and free its memory and files."""
        self.worker.drop(label)
        shutil.rmtree(self.builds.pop(label).file.parent, ignore_errors=True)

    def time(self, labels: Sequence[str], rounds: int, warmup: int = 3) -> np.ndarray:
        """Interleaved latencies [labels, rounds] in ms; they are added to the builds' own."""
        self._seed += 1
        inputs = [self._input(self.builds[label].image) for label in labels]
        ms = self.worker.time(list(labels), inputs, rounds=rounds, warmup=warmup, seed=self._seed)
        for label, row in zip(labels, ms, strict=True):
            self.builds[label].latencies_ms.extend(map(float, row))
        return ms

    def share(self, label: str) -> float:
        """Latency as a share of the dense build's in the same rounds, since a machine's speed drifts between builds."""
        self.time(["dense", label], 10)
        base, other = self.time(["dense", label], self.rounds_for("dense", 1.5, least=30))
        return 1 / speedup(base, other).value

    def rounds_for(self, label: str, seconds: float, least: int = 10, most: int = 400) -> int:
        """How many rounds of `label` fit into `seconds`, by what it took so far."""
        return int(np.clip(seconds * 1e3 / self.builds[label].latency_ms, least, most))

    def _input(self, image: tuple[int, int, int]) -> np.ndarray:
        if image not in self._inputs:
            self._inputs[image] = self._noise.standard_normal((self.batch, *image), dtype=np.float32)
        return self._inputs[image]

    def logits(self, label: str, images: np.ndarray) -> np.ndarray:
        """What the built file answers: float32 [S classes]."""
        return self.worker.run(label, images, self.batch)


def photographs(data: str | Path | None, loaded: Loaded, *, limit: int | None, seed: int = 0) -> Images:
    """The user's photographs, or the bundled ones, labelled where their labels are this model's classes.

    Photographs of other things than the model knows (bundled clothing, for an ImageNet model) come without labels.
    """
    known = loaded.classes if loaded.classes is not None else describe(loaded.model).classes
    unlabelled = data is None and loaded.ref.name != BUNDLED
    return open_images(data, classes=known, limit=limit, seed=seed, unlabelled=unlabelled)


def reference_logits(model: nn.Module, images: np.ndarray, chunk: int = 16) -> np.ndarray:
    """What the user's own model answers in float32 torch: [S classes]."""
    import torch

    with torch.inference_mode():
        rows = [model(torch.tensor(images[i : i + chunk])) for i in range(0, len(images), chunk)]
    return torch.cat(rows).float().numpy()


def answering(opened: Artefact | Loaded) -> tuple[Callable[[np.ndarray], np.ndarray], Preprocess]:
    """Preprocessed images -> outputs, and the preprocessing."""
    if isinstance(opened, Artefact):
        return opened, opened.preprocess
    return lambda x: reference_logits(opened.model, x), opened.preprocess

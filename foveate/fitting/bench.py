"""Builds beside each other: the files that may be deployed, in the process of their runtime, timed and run there."""

import itertools
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from torch import nn

from foveate.adapters import Reduced, adapt
from foveate.hardware.device import device_facts
from foveate.hardware.timer import Speedup, speedup
from foveate.plans import ModelRef, Plan, Step
from foveate.result import Tag
from foveate.runtimes import RUNTIMES, Worker
from foveate.target import Precision, Target

SETTLE_S = 0.02  # between two runtimes that take turns: the pool of threads of the one spins on for a while


@dataclass(frozen=True)
class Build:
    """A plan built for its runtime, loaded there under `label`."""

    label: str
    plan: Plan
    file: Path
    image: tuple[int, int, int]  # channels, height, width
    seconds: float  # that building took


@dataclass(frozen=True, eq=False)
class Timing:
    """One measurement: builds timed by turns, in every round each once, in an order drawn anew."""

    labels: tuple[str, ...]
    ms: np.ndarray  # [labels rounds]
    stage: str

    def of(self, label: str) -> np.ndarray:
        """Milliseconds [rounds] of one build."""
        return self.ms[self.labels.index(label)]

    def median(self, label: str) -> float:
        return float(np.median(self.of(label)))

    def speedup(self, base: str, other: str, level: float = 0.99) -> Speedup:
        return speedup(self.of(base), self.of(other), level)

    def share(self, label: str, base: str) -> float:
        """Latency of `label` over that of `base`: the median of the rounds' ratios, in which drift cancels."""
        return 1 / self.speedup(base, label).value


class Bench:
    """Builds of one model on one target, all in one worker process. A context manager.

    The target's precision is what builds get unless `add` says another: one runtime's precisions can be timed by turns.
    """

    def __init__(
        self,
        model: nn.Module,
        ref: ModelRef,
        folder: Path,
        target: Target,
        *,
        calibration: np.ndarray | None = None,
        seed: int = 0,
    ) -> None:
        """`target.threads` is set. `calibration`: preprocessed images [S 3 h w] for int8 builds."""
        assert target.threads is not None
        self.model, self.ref, self.folder, self.target = model, ref, folder, target
        self.calibration = calibration
        self.builds: dict[str, Build] = {}
        self.worker = Worker(target.runtime, target.threads, target.device)
        self._numbers = itertools.count()
        self._inputs: dict[tuple[int, int, int], np.ndarray] = {}
        self._noise, self._seed = np.random.default_rng(seed), seed

    def __enter__(self) -> Self:
        self.worker.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.worker.__exit__(kind, e, tb)

    def add(
        self,
        label: str,
        steps: Sequence[Step] = (),
        *,
        planner: str | None = None,
        module: Reduced | None = None,
        precision: Precision | None = None,
    ) -> Build:
        """Build the model reduced by `steps` (`module`, where that is made already) and load it in the worker."""
        began = time.monotonic()
        made = module or adapt(self.model, steps).eval()
        target = self.target.model_copy(update={"precision": precision or self.target.precision})
        plan = Plan(model=self.ref, steps=tuple(steps), target=target, planner=planner)
        # A number is never given twice: a build that is dropped leaves no name for another one to land in, and neither
        # does a bench whose process died, for the one that takes its place.
        named = (self.folder / f"{target.runtime}-{target.precision}-{n}" for n in self._numbers)
        where = next(each for each in named if not each.exists())
        where.mkdir(parents=True)
        file = RUNTIMES[target.runtime].build(
            made, where, shape=(target.batch, *made.facts.image), precision=target.precision, device=target.device,
            calibration=self.calibration if target.precision == "int8" else None,
        )  # fmt: skip
        self.worker.load(label, file, precision=target.precision)
        self.builds[label] = build = Build(label, plan, file, made.facts.image, time.monotonic() - began)
        return build

    def drop(self, label: str) -> None:
        """Forget a build and free its memory and files."""
        self.worker.drop(label)
        shutil.rmtree(self.builds.pop(label).file.parent, ignore_errors=True)

    def time(
        self, labels: Sequence[str], rounds: int, *, warmup: int = 3, stage: str = "search", look: bool | None = None
    ) -> Timing:
        """Builds by turns. Nothing is kept of it here. `look`: as in `Worker.time`."""
        self._seed += 1
        inputs = [self._input(self.builds[label].image) for label in labels]
        ms = self.worker.time(list(labels), inputs, rounds=rounds, warmup=warmup, seed=self._seed, look=look)
        return Timing(tuple(labels), ms, stage)

    def outputs(self, label: str, images: np.ndarray) -> np.ndarray:
        """What the built file answers: float32 [S ...]."""
        return self.worker.run(label, images, self.target.batch)

    def _input(self, image: tuple[int, int, int]) -> np.ndarray:
        if image not in self._inputs:
            self._inputs[image] = self._noise.standard_normal((self.target.batch, *image), dtype=np.float32)
        return self._inputs[image]


@dataclass(frozen=True)
class Seat:
    """A build at its bench."""

    bench: Bench
    label: str

    @property
    def build(self) -> Build:
        return self.bench.builds[self.label]


def by_turns(base: Seat, other: Seat, rounds: int, *, stage: str = "search") -> Timing:
    """Two builds by turns, in one process where they share a runtime, else each in its own, with rests in between."""
    if base.bench is other.bench:
        return base.bench.time([base.label, other.label], rounds, stage=stage)
    order, seats = np.random.default_rng(rounds), (base, other)
    ms = np.empty((2, rounds))
    for r in range(rounds):
        for i in order.permutation(2):
            time.sleep(SETTLE_S)
            ms[i, r] = seats[i].bench.time([seats[i].label], 1, warmup=1, look=not r).ms[0, 0]
    return Timing((base.label, other.label), ms, stage)


def rounds_for(ms: float, seconds: float, least: int = 10, most: int = 400) -> int:
    """How many rounds of `ms` milliseconds fit into `seconds`."""
    return int(np.clip(seconds * 1e3 / ms, least, most))


def share_of(base: Seat, other: Seat, seconds: float = 1.5) -> float:
    """Latency of `other` as a share of `base`'s in the same rounds, since a machine's speed drifts between builds."""
    first = by_turns(base, other, 10)
    each = first.median(other.label) + first.median(base.label)
    return by_turns(base, other, rounds_for(each, 2 * seconds, least=30)).share(other.label, base.label)


def origin(bench: Bench, seed: int) -> dict[str, Tag]:
    """Device, threads and versions that stand beside every figure."""
    facts = {k: v for k, v in device_facts().items() if isinstance(v, str | int | float | bool | list)}
    child = {k: v for k, v in bench.worker.facts().items() if isinstance(v, str | int | float | bool)}
    return {**facts, **child, "device": bench.target.device, "threads": bench.target.threads, "seed": seed}

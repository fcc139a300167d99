"""Timing parts of a model in the runtime that will serve.

Costs of one block come from all blocks in turn on n tokens, built once with an open token count and loaded with a
fixed one. Every latency is a median ratio to the same blocks on the full count, run in the same rounds: a machine that
slows down slows both.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import nn

from foveate.adapters import adapt
from foveate.profiling.curve import Point
from foveate.profiling.stack import Ends, Reductions, Stack, trial
from foveate.runtimes import RUNTIMES, Worker

# Runtimes whose loaded model is one and the same for every count; others are loaded once a count, as they are deployed.
SHAPELESS = frozenset({"eager", "compile"})


class RuntimeMeter:
    """Builds the parts for a runtime and times them in a process of its own. A context manager."""

    def __init__(self, model: nn.Module, runtime: str, precision: str, batch: int, threads: int) -> None:
        self.model, self.runtime, self.precision, self.batch = model, runtime, precision, batch
        self.reduced = adapt(model).eval().settled()
        self.facts = self.reduced.facts
        self.build, self.worker = RUNTIMES[runtime].build, Worker(runtime, threads)
        self.rng = np.random.default_rng(0)
        self.files: dict[str, Path] = {}
        self.loaded: set[str] = set()
        self.reference: str | None = None
        self.added = 0
        self.seed = 0

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self._folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="foveate-profile-")))
            opened.enter_context(self.worker)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def blocks(self, counts: Sequence[int]) -> list[Point]:
        return self._stacks("blocks", counts)

    def attention(self, counts: Sequence[int]) -> list[Point]:
        return self._stacks("attention", counts)

    def ends(self) -> list[Point]:
        x = self._random(self.batch, *self.facts.image)
        path = self._built("ends", lambda: Ends(self.reduced), x.shape)
        (ratios, reference) = self._time({"ends": (path, x)})
        n = self.facts.tokens
        return [_median("ends", n, n, ratios[0], reference)]

    def reduce(self, methods: Sequence[str], n: int) -> list[Point]:
        """One reduction of about n tokens: two in a row where possible, against keeping the first ones for nothing."""
        f = self.facts
        start, counts = trial(n, f.tokens, f.prefix, f.depth)
        x = self._random(self.batch, start, f.width)
        models: dict[str, tuple[Path, np.ndarray]] = {}
        for method in (None, *methods):
            name = f"{method or 'none'} {n}"
            models[name] = (self._built(name, lambda t=method: Reductions(self.model, t, counts), x.shape), x)
        (free, *ratios), reference = self._time(models, repeat=3)
        return [
            _median(f"reduce:{method}", n, counts[-1], (ratio - free) / len(counts), reference)
            for method, ratio in zip(methods, ratios, strict=True)
        ]

    def _stacks(self, part: str, counts: Sequence[int]) -> list[Point]:
        path, full = self._stack(part), self.facts.tokens if part == "blocks" else None
        others = [n for n in counts if n != full]
        ratios, reference = self._time({f"{part} {n}": (path, self._input(n)) for n in others})
        row = dict(zip(others, ratios, strict=True)) | {full: np.ones_like(reference)}  # the reference itself
        return [_median(part, n, n, row[n], reference) for n in counts]

    def _stack(self, part: str) -> Path:
        if part not in self.files:
            stack = Stack(self.reduced, attention_only=part == "attention")
            self.added = stack.added
            self._built(part, lambda: stack, (self.batch, None, self.facts.width))
        return self.files[part]

    def _time(self, models: dict[str, tuple[Path, np.ndarray]], repeat: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Time models beside the reference: (ratios [models, rounds], the reference's ms [rounds]).

        Five rounds, and up to thirty while a median is not yet known to about a percent and time allows, or where they
        are so short that a passing disturbance could fill them.
        `repeat`: runs of each model a round, of which the median counts; the reference runs once.
        """
        if self.reference is None:
            self.reference = self._load("reference", self._stack("blocks"), self._input(self.facts.tokens))
        keys = [self.reference, *(self._load(name, path, x) for name, (path, x) in models.items())]
        inputs = [self._input(self.facts.tokens), *(x for _, x in models.values())]
        again = [*keys, *(keys[1:] * (repeat - 1))], [*inputs, *(inputs[1:] * (repeat - 1))]
        ms, warmup, began = np.empty((len(keys), 0)), 2, time.monotonic()
        while True:
            self.seed += 1
            new = self.worker.time(*again, rounds=5, warmup=warmup, seed=self.seed)
            others = np.median(new[1:].reshape(repeat, len(models), new.shape[1]), axis=0)
            ms, warmup = np.hstack([ms, np.vstack([new[:1], others])]), 0
            ratios = ms[1:] / ms[0]
            error = 1.86 * np.median(np.abs(ratios - np.median(ratios, 1, keepdims=True)), 1) / ms.shape[1] ** 0.5
            took, settled = time.monotonic() - began, (error <= 0.008 * np.median(ratios, 1)).all()
            if ms.shape[1] >= 30 or took > 2.0 or (settled and took > 0.7):
                break
        for key in set(keys) - {self.reference, "blocks", "attention"}:
            self.worker.drop(key)
            self.loaded.discard(key)
        return ratios, ms[0]

    def _load(self, name: str, path: Path, x: np.ndarray) -> str:
        """Load a file for the shape of x; its key."""
        stack = next((p for p in ("blocks", "attention") if path == self.files.get(p)), None)
        key, shape = (stack, None) if stack and self.runtime in SHAPELESS else (name, x.shape)
        if key not in self.loaded:
            self.worker.load(key, path, precision=self.precision, shape=shape)
            self.loaded.add(key)
        return key

    def _built(self, name: str, module: Callable[[], nn.Module], shape: tuple[int | None, ...]) -> Path:
        if name not in self.files:
            calibration = None
            if self.precision == "int8":  # for timing alone: any values do
                calibration = self._random(2 * self.batch, *(n or self.facts.tokens for n in shape[1:]))
            folder = self._folder / str(len(self.files))
            self.files[name] = self.build(
                module().eval(), folder, shape=shape, precision=self.precision, calibration=calibration
            )
        return self.files[name]

    def _input(self, n: int) -> np.ndarray:
        """What a stack takes to run on n tokens."""
        return self._random(self.batch, n - self.added, self.facts.width)

    def _random(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape, dtype=np.float32)


def _median(part: str, n: int, m: int, ratios: np.ndarray, reference_ms: np.ndarray) -> Point:
    middle = float(np.median(reference_ms))
    return Point(part=part, n=n, m=m, ratio=float(np.median(ratios)), reference_ms=middle, rounds=len(ratios))

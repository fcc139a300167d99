"""Timing parts of a model in the runtime that will serve.

Costs of one block come from all blocks in turn on n tokens, built once with an open token count and loaded with a
fixed one. Every latency is a median ratio to the same blocks on the full count, run in the same rounds: a machine that
slows down slows both.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from torch import nn

from foveate.adapters import adapt
from foveate.hardware.device import default_threads
from foveate.hardware.timer import allowance
from foveate.profiling.curve import Point
from foveate.profiling.quiet import others_worked
from foveate.profiling.stack import Ends, Reductions, Stack, trial
from foveate.runtimes import RUNTIMES, Worker
from foveate.runtimes._export import write_onnx
from foveate.runtimes.worker import convert, stop_converting
from foveate.staging import scratch
from foveate.target import Target

# Runtimes whose loaded model is one and the same for every count; others are loaded once a count, as they are deployed.
SHAPELESS = frozenset({"eager", "compile"})


class RuntimeMeter:
    """Builds the parts for a target and times them in a process of its own. A context manager.

    Inputs of inner parts lie on the device, as they do within the model; an image comes from the host.

    Of an int8 model, reductions are timed in the precision that they stay in there, between blocks in that precision
    as well: what they cost was the same to a few hundredths of a millisecond (OpenVINO and ONNX Runtime, ViT-Tiny and
    ViT-S), and quantising so many parts took longer than all of the timing.
    """

    def __init__(self, model: nn.Module, target: Target) -> None:
        self.model, self.target, self.batch = model, target, target.batch
        self.reduced = adapt(model).eval().for_inference()
        self.facts = self.reduced.facts
        self.runtime = RUNTIMES[target.runtime]
        in_int8 = target.precision == "int8"
        self.reducing = self.runtime.beside_int8(target.device) if in_int8 else target.precision
        self.worker = Worker(target.runtime, target.threads or default_threads(), target.device)
        self.rng = np.random.default_rng(0)
        self.parts: dict[str, Part] = {}
        self.loaded: set[str] = set()
        self.reference: str | None = None
        self.added = 0
        self._pool: ThreadPoolExecutor | None = None  # while parts are built beforehand
        self.seed = 0

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self._folder = opened.enter_context(scratch())
            opened.enter_context(self.worker)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def build(self, methods: Sequence[str], counts: Sequence[int], told: Callable[[str], None]) -> None:
        """Build every part beforehand, the reductions of `methods` on about `counts` tokens among them.

        Where a runtime converts graphs in a process of its own, one part is converted while the next is exported: of an
        int8 model quantising takes longer than anything else here.
        """
        if not hasattr(self.runtime, "convert"):
            return
        build: list[Callable[[], object]] = [lambda p=part: self._stack(p) for part in ("blocks", "attention")]
        build.append(self._ends)
        build += [lambda m=m, n=n: self._reduction(m, n) for n in counts for m in (None, *methods)]
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="convert")
        self._converting: list[Future[None]] = []
        try:
            for number, one in enumerate(build, 1):
                one()
                told(f"{number} of {len(build)} parts exported")
            for each in self._converting:
                each.result()
        except BaseException:  # a Ctrl-C waits for no converter
            self._pool.shutdown(wait=False, cancel_futures=True)
            stop_converting()
            raise
        finally:
            pool, self._pool = self._pool, None
        pool.shutdown()

    def blocks(self, counts: Sequence[int]) -> list[Point]:
        return self._stacks("blocks", counts)

    def attention(self, counts: Sequence[int]) -> list[Point]:
        return self._stacks("attention", counts)

    def ends(self) -> list[Point]:
        x = self._random(self.batch, *self.facts.image)
        timed = self._time({"ends": (self._ends(), x)}, from_host=True)
        n = self.facts.tokens
        return [_median("ends", n, n, timed.ratios[0], timed)]

    def reduce(self, methods: Sequence[str], n: int) -> list[Point]:
        """One reduction of about n tokens: two in a row where possible, against keeping the first ones for nothing."""
        models, counts, x = dict[str, tuple[Part, np.ndarray]](), list[int](), np.empty(0)
        for method in (None, *methods):
            part, counts, shape = self._reduction(method, n)
            x = x if len(x) else self._random(*shape)
            models[f"{method or 'none'} {n}"] = (part, x)
        timed = self._time(models, repeat=3)
        free, *ratios = timed.ratios
        return [
            _median(f"reduce:{method}", n, counts[-1], (ratio - free) / len(counts), timed)
            for method, ratio in zip(methods, ratios, strict=True)
        ]

    def _stacks(self, part: str, counts: Sequence[int]) -> list[Point]:
        stack, full = self._stack(part), self.facts.tokens if part == "blocks" else None
        others = [n for n in counts if n != full]
        timed = self._time({f"{part} {n}": (stack, self._input(n)) for n in others})
        row = dict(zip(others, timed.ratios, strict=True)) | {full: np.ones_like(timed.reference_ms)}  # itself
        return [_median(part, n, n, row[n], timed) for n in counts]

    def _stack(self, part: str) -> "Part":
        if part not in self.parts:
            stack = Stack(self.reduced, attention_only=part == "attention")
            self.added = stack.added
            self._built(part, lambda: stack, (self.batch, None, self.facts.width))
        return self.parts[part]

    def _ends(self) -> "Part":
        return self._built("ends", lambda: Ends(self.reduced), (self.batch, *self.facts.image))

    def _reduction(self, method: str | None, n: int) -> "tuple[Part, list[int], tuple[int, ...]]":
        """(the part, its counts after each reduction, the shape that it takes)."""
        f = self.facts
        start, counts = trial(n, f.tokens, f.prefix, f.depth)
        shape = (self.batch, start, f.width)
        made = lambda: Reductions(self.model, method, counts)
        return self._built(f"{method or 'none'} {n}", made, shape, self.reducing), counts, shape

    def _time(self, models: "dict[str, tuple[Part, np.ndarray]]", repeat: int = 1, from_host: bool = False) -> "Timed":
        """Time models beside the reference.

        Five rounds, and up to thirty while a median is not yet known to about a percent and time allows, or where they
        are so short that a passing disturbance could fill them.
        `repeat`: runs of each model a round, of which the median counts; the reference runs once.
        """
        if self.reference is None:
            self.reference = self._load("reference", self._stack("blocks"), self._input(self.facts.tokens))
        keys = [self.reference, *(self._load(name, part, x) for name, (part, x) in models.items())]
        inputs = [self._input(self.facts.tokens), *(x for _, x in models.values())]
        again = [*keys, *(keys[1:] * (repeat - 1))], [*inputs, *(inputs[1:] * (repeat - 1))]
        resident = [True] + [not from_host] * (len(again[0]) - 1)
        quiet: list[dict[str, float]] = []
        ms, warmup, began = np.empty((len(keys), 0)), 2, time.monotonic()
        while True:
            self.seed += 1
            new = self.worker.time(*again, rounds=5, warmup=warmup, seed=self.seed, resident=resident)
            quiet.append(self.worker.facts()["quiet"])
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
        return Timed(ratios, ms[0], others_worked(quiet, allowance(self.target)))

    def _load(self, name: str, part: "Part", x: np.ndarray) -> str:
        """Load a part for the shape of x; its key."""
        stack = next((key for key in ("blocks", "attention") if part == self.parts.get(key)), None)
        key, shape = (stack, None) if stack and self.target.runtime in SHAPELESS else (name, x.shape)
        if key not in self.loaded:
            self.worker.load(key, part.file, precision=part.precision, shape=shape)
            self.loaded.add(key)
        return key

    def _built(
        self, name: str, module: Callable[[], nn.Module], shape: tuple[int | None, ...], precision: str | None = None
    ) -> "Part":
        """`precision`: by default the target's."""
        if name in self.parts:
            return self.parts[name]
        precision, calibration = precision or self.target.precision, None
        if precision == "int8":  # for timing alone: any values do
            calibration = self._random(2 * self.batch, *(n or self.facts.tokens for n in shape[1:]))
        folder, made = self._folder / name.replace(" ", "-"), module().eval()
        if self._pool is None:
            file = self.runtime.build(
                made, folder, shape=shape, precision=precision, device=self.target.device, calibration=calibration
            )
        else:
            (folder / "graph").mkdir(parents=True)
            graph = write_onnx(made, shape, folder / "graph" / "graph.onnx")
            file = folder / f"part{self.runtime.suffix}"

            def converted() -> None:
                where = self.target
                convert(where.runtime, graph, file, precision, calibration, shape[0] or 1, where.device)
                shutil.rmtree(graph.parent)

            self._converting.append(self._pool.submit(converted))
        self.parts[name] = Part(file, precision)
        return self.parts[name]

    def _input(self, n: int) -> np.ndarray:
        """What a stack takes to run on n tokens."""
        return self._random(self.batch, n - self.added, self.facts.width)

    def _random(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape, dtype=np.float32)


class Part(NamedTuple):
    """A part that is built."""

    file: Path
    precision: str


class Timed(NamedTuple):
    """Of models beside the reference, in the same rounds."""

    ratios: np.ndarray  # [models rounds]
    reference_ms: np.ndarray  # [rounds]
    disturbed: bool


def _median(part: str, n: int, m: int, ratios: np.ndarray, timed: Timed) -> Point:
    return Point(
        part=part, n=n, m=m, ratio=float(np.median(ratios)), reference_ms=float(np.median(timed.reference_ms)),
        rounds=len(ratios), disturbed=timed.disturbed,
    )  # fmt: skip

"""Latency on a GPU, over multiply-accumulates: dense builds, and three plans of the same predicted time.

    python -m benchmarks.gpu --seconds 300
    python -m benchmarks.gpu --models DeiT-S --batches 1 --seconds 120

Weights are random: nothing here is said of accuracy. Plans: ToMe with r = 13 (8 for ViT-L, as published); the same
method in three blocks with as many MACs; and the planner's front at ToMe's MACs, whose losses are a stand-in that grows
with what is removed and falls with depth. Every plan is timed by turns with the fastest dense build found, in its
runtime and precision, from the host and without the copies.

Building takes longest, a compiled package a minute: so all dense builds are made first, several at once, then timed one
model after the other; then the plans in the same way. What was not built in time is left out, with a word.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch

from foveate.adapters import adapt, describe
from foveate.errors import InputError
from foveate.facts import Facts
from foveate.files import write_text
from foveate.hardware.device import device_facts
from foveate.hardware.timer import speedup
from foveate.planners import LatencyTable, Sensitivity, front
from foveate.planners.space import Space
from foveate.planners.table import Curve
from foveate.plans import Step
from foveate.runtimes import RUNTIMES, Worker
from foveate.schedule import Schedule

OUT = Path(__file__).parent / "results" / "gpu.json"
MODELS = {
    "DeiT-S": ("deit_small_patch16_224", {}, 13),
    "ViT-B": ("vit_base_patch16_224", {}, 13),
    "ViT-L": ("vit_large_patch16_224", {}, 8),
    "DINOv2-L 518": ("vit_large_patch14_dinov2", {"img_size": 518}, 13),
}  # timm's name and options, ToMe's r
METHOD, QUARTERS = "tome", (1, 2, 3)
ROUNDS, SETTLE = 200, 20
CORES_A_BUILD = 2
DENSE_SHARE, PLANS_SHARE = 0.5, 0.85  # of the time, by when the dense builds and the plans are to be there
Steps = tuple[Step, ...]


def plans_of(f: Facts, r: int) -> dict[str, Steps]:
    """Steps by name; all but the dense one take about as many MACs as ToMe with r."""
    tome = Schedule.tome(f.tokens, f.depth, r, 0.0, f.prefix)
    aim = f.macs(tome)
    steps = tuple(Step(block=b, method=METHOD, tokens=n) for b, n in tome.cuts.items())
    return {"dense": (), f"tome r={r}": steps, "three blocks": in_three(f, aim), "pareto": planned(f, aim)}


def in_three(f: Facts, aim: int) -> Steps:
    """A common share removed after each quarter of the depth: the smallest share within `aim` MACs."""
    for keep in np.linspace(0.99, 0.5, 200):
        left, steps = f.tokens, []
        for quarter in QUARTERS:
            left = f.prefix + max(2, round((left - f.prefix) * keep))
            steps.append(Step(block=quarter * f.depth // 4 - 1, method=METHOD, tokens=left))
        if f.macs(f.cut(steps)) <= aim:
            return tuple(steps)
    return tuple(steps)


def planned(f: Facts, aim: int) -> Steps:
    """Of the planner's front over a table of MACs, the plan of least stand-in loss within `aim`."""
    grid = sorted({max(f.prefix + 2, round(f.tokens * s / 16)) for s in range(4, 16)})
    cost = lambda n, rest: [int(rest(m)) / 1e9 for m in n]
    whole = [*grid, f.tokens]
    attention = lambda n: 4 * n * f.width**2 + 2 * n * n * f.width
    table = LatencyTable(
        fixed_ms=0.0,
        block=Curve(tokens=whole, ms=cost(whole, lambda n: attention(n) + 8 * n * f.width**2)),
        attention=Curve(tokens=whole, ms=cost(whole, attention)),
    )
    blocks = tuple(range(max(1, f.depth // 6), f.depth))
    lost = lambda b, n: ((1 - n / f.tokens) * (1 - b / f.depth)) ** 2
    sensitivity = Sensitivity(start=f.tokens, loss={b: {METHOD: {n: lost(b, n) for n in grid}} for b in blocks})
    space = Space(f.tokens, f.depth, f.prefix, blocks, tuple(grid), (METHOD,), {METHOD: 0.5})
    able = [s for s in front(space, table, sensitivity, labels=64) if s.steps and f.macs(f.cut(s.steps)) <= aim]
    return min(able, key=lambda s: s.loss).steps if able else ()


class Build(NamedTuple):
    """One model file to make."""

    model: str  # a name in MODELS
    batch: int
    plan: str  # a name in `plans_of`
    runtime: str
    precision: str


class Cell(NamedTuple):
    """One row of the results: a model and a batch size."""

    model: str
    batch: int

    @property
    def name(self) -> str:
        return f"{self.model} batch {self.batch}"

    def input(self) -> np.ndarray:
        return np.random.default_rng(0).standard_normal((self.batch, *facts(self.model).image)).astype(np.float32)


class Shop:
    """Builds made in processes of their own, several at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(CORES_A_BUILD)
        many = max(1, (os.cpu_count() or 1) // CORES_A_BUILD)
        self.pool = ProcessPoolExecutor(many, mp_context=get_context("spawn"))

    def __enter__(self) -> "Shop":
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in list((self.pool._processes or {}).values()):  # a compiler would go on
            process.terminate()

    def make(self, builds: Sequence[Build], until: float) -> dict[Build, Path | str]:
        """The file of each, or why there is none; what is not ready by `until` is left."""
        asked = {b: self.pool.submit(made, b, self.folder / "-".join(map(str, b)), DEVICE) for b in builds}
        wait(asked.values(), timeout=max(1.0, until - time.monotonic()))
        return {b: self._result(future) for b, future in asked.items()}

    def _result(self, future: Future[Path]) -> Path | str:
        if not future.done():
            future.cancel()
            return "not built in time"
        try:
            return future.result()
        except (InputError, RuntimeError, OSError) as e:  # the others are worth having
            return f"failed: {str(e).splitlines()[0] if str(e) else type(e).__name__}"


def made(build: Build, folder: Path, device: str) -> Path:
    """In a process of the pool."""
    torch.set_num_threads(CORES_A_BUILD)
    began = time.monotonic()
    steps = plans_of(facts(build.model), MODELS[build.model][2])[build.plan]
    reduced = adapt(model_of(build.model), steps).eval()
    shape = (build.batch, *reduced.facts.image)
    path = RUNTIMES[build.runtime].build(reduced, folder, shape=shape, precision=build.precision, device=device)
    say(f"built in {time.monotonic() - began:.0f} s: {' '.join(map(str, build))}")
    return path


@cache
def model_of(name: str) -> Any:
    made, options, _ = MODELS[name]
    return timm.create_model(made, **options).eval()


@cache
def facts(name: str) -> Facts:
    made, options, _ = MODELS[name]
    with torch.device("meta"):
        return describe(timm.create_model(made, **options))


def contenders() -> Iterator[tuple[str, str]]:
    """(runtime, precision) of dense builds. Compiled in fp16 alone: bf16 takes as long, and fp32 is far behind."""
    for runtime, precisions in (("eager", ("fp16", "bf16", "fp32")), ("compile", ("fp16",))):
        for precision in precisions:
            if RUNTIMES[runtime].why_not(precision, DEVICE) is None:
                yield runtime, precision


def time_dense(cell: Cell, built: dict[Build, Path | str], bench: "Workers") -> dict[str, float | str]:
    """Median ms of every dense build of a cell, taking turns within a runtime, or the reason why there is none."""
    found: dict[str, float | str] = {f"{b.runtime} {b.precision}": p for b, p in built.items() if isinstance(p, str)}
    for runtime in dict.fromkeys(b.runtime for b in built):
        able = {b.precision: p for b, p in built.items() if b.runtime == runtime and isinstance(p, Path)}
        if not able:
            continue
        times = bench.time(runtime, {p: (path, p) for p, path in able.items()}, cell.input(), ROUNDS // 4)
        for precision in able:
            ms = times if isinstance(times, str) else float(np.median(times[0][precision]))
            found[f"{runtime} {precision}"] = ms
    return found


def time_plans(cell: Cell, files: dict[str, Path | str], plans: dict[str, Steps], how: str, bench: "Workers") -> Any:
    """A row a plan: latency by turns with the dense build, from the host and without the copies."""
    runtime, precision = how.split()
    able = {name: (path, precision) for name, path in files.items() if isinstance(path, Path)}
    times = bench.time(runtime, able, cell.input(), ROUNDS)
    f, rows = facts(cell.model), dict[str, Any](files)
    for name in able:
        if isinstance(times, str):
            rows[name] = times
            continue
        ms, there = times
        won, resident = (speedup(t["dense"], t[name], level=0.99) for t in times)
        share = f.macs_ratio(f.cut(plans[name]))
        rows[name] = {
            "ms": float(np.median(ms[name])), "speedup": won.value, "low": won.low, "high": won.high,
            "resident_ms": float(np.median(there[name])), "resident_speedup": resident.value,
            "resident_low": resident.low, "resident_high": resident.high,
            "macs_ratio": share, "latency_over_macs": 1 / won.value / share, "steps": [str(s) for s in plans[name]],
        }  # fmt: skip
    return rows


class Workers:
    """A process a runtime, started when it is first wanted and again after it died."""

    def __init__(self) -> None:
        self.alive: dict[str, Worker] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        for runtime in list(self.alive):
            self.end(runtime)

    def end(self, runtime: str) -> None:
        self.alive.pop(runtime).__exit__(None, None, None)

    def facts(self) -> dict[str, Any]:
        return next(iter(self.alive.values())).facts() if self.alive else {}

    def time(
        self, runtime: str, models: dict[str, tuple[Path, str]], x: np.ndarray, rounds: int
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | str:
        """Milliseconds by name, taking turns: from the host, and without the copies; or what went wrong."""
        try:
            if runtime not in self.alive:
                self.alive[runtime] = Worker(runtime, 1, DEVICE).__enter__()
            worker, names = self.alive[runtime], list(models)
            for name, (path, precision) in models.items():
                worker.load(name, path, precision=precision)
            turns = [
                worker.time(names, [x] * len(names), rounds=rounds, warmup=SETTLE, resident=r) for r in (False, True)
            ]
            for name in names:
                worker.drop(name)
        except (InputError, RuntimeError) as e:  # the other cells are worth having
            if runtime in self.alive:
                self.end(runtime)
            return f"failed: {str(e).splitlines()[0]}"
        return dict(zip(names, turns[0], strict=True)), dict(zip(names, turns[1], strict=True))


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main(seconds: float, models: Sequence[str], batches: Sequence[int]) -> None:
    began = time.monotonic()
    cells = [Cell(model, batch) for batch in batches for model in models]
    plans = {model: plans_of(facts(model), MODELS[model][2]) for model in models}
    sheet: dict[str, Any] = {"machine": device_facts(), "device": DEVICE, "weights": "random", "rows": {}}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shop = stack.enter_context(Shop(folder))
        asked = [Build(*cell, "dense", *how) for how in contenders() for cell in cells]
        built = shop.make(asked, began + DENSE_SHARE * seconds)
        bench = stack.enter_context(Workers())
        best: dict[Cell, list[str]] = {}  # a cell's fastest dense build, and its fastest in plain torch
        for cell in cells:
            dense = time_dense(cell, {b: p for b, p in built.items() if b[:2] == cell}, bench)
            sheet["rows"][cell.name] = {"dense_ms": dense, "plans": {}}
            order = sorted((name for name, ms in dense.items() if isinstance(ms, float)), key=lambda name: dense[name])
            best[cell] = list(dict.fromkeys(order[:1] + [name for name in order if name.startswith("eager")][:1]))
            sheet["gpu"] = bench.facts()
            written(sheet, cell.name)
        wanted = [
            Build(*cell, name, *how.split()) for cell in cells for how in reversed(best[cell])
            for name in plans[cell.model]
        ]  # fmt: skip
        built |= shop.make([b for b in wanted if b not in built], began + PLANS_SHARE * seconds)
        for cell in cells:
            for how in best[cell]:
                files = {b.plan: built[b] for b in wanted if (*b[:2], *b[3:]) == (*cell, *how.split())}
                sheet["rows"][cell.name]["plans"][how] = time_plans(cell, files, plans[cell.model], how, bench)
            written(sheet, cell.name)


def written(sheet: dict[str, Any], row: str) -> None:
    say(f"{row}: {json.dumps(sheet['rows'][row])}")
    write_text(OUT, json.dumps(sheet, indent=1, default=str) + "\n")


DEVICE = "cuda"
if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seconds", type=float, default=300.0, help="about how long all of it may take")
    asked.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    asked.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    asked.add_argument("--device", default=DEVICE)
    asked.add_argument("--why-not", action="store_true", help="only say why nothing can be measured, if so")
    a = asked.parse_args()
    DEVICE = a.device
    lacking = RUNTIMES["eager"].why_not(device=DEVICE)
    if a.why_not or lacking:
        print(lacking or "")
        raise SystemExit(0 if a.why_not else 2)
    main(a.seconds, a.models, a.batches)

"""Latency on a GPU, over multiply-accumulates: dense builds, and three plans of the same predicted time.

    python -m benchmarks.gpu --seconds 220

Weights are random: nothing here is said of accuracy. Plans: ToMe with r = 13 (8 for ViT-L, as published); the same
method in three blocks with as many MACs; and the planner's front at ToMe's MACs, whose losses are a stand-in that grows
with what is removed and falls with depth. Every plan is timed by turns with the fastest dense build found, in its
runtime and precision, from the host and without the copies. Cells for which no time is left are skipped, with a word.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
from torch import nn

from foveate.adapters import adapt, describe
from foveate.errors import InputError
from foveate.facts import Facts
from foveate.files import write_text
from foveate.hardware.device import default_threads, device_facts
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


class Clock:
    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def dense_builds() -> Iterator[tuple[str, str]]:
    """(runtime, precision) in the order of trying: what is quick to build and mostly fastest comes first."""
    for runtime in ("eager", "compile"):
        for precision in ("fp16", "bf16", "fp32"):
            if (reason := RUNTIMES[runtime].why_not(precision, DEVICE)) is None:
                yield runtime, precision
            else:
                say(f"{runtime} {precision}: {reason}")


def cell(model: nn.Module, r: int, batch: int, folder: Path, clock: Clock, compiled: bool) -> dict[str, Any]:
    """One model and batch: every dense build, then the plans beside the fastest."""
    f = describe(model)
    x = np.random.default_rng(0).standard_normal((batch, *f.image)).astype(np.float32)
    plans, dense, rows = plans_of(f, r), {}, {}
    for runtime, precision in BUILDS:
        if runtime == "compile" and (not compiled or clock.left < 60):
            dense[f"{runtime} {precision}"] = "skipped: no time left"
            continue
        file = build(model, (), "dense", runtime, precision, x, folder)
        with Worker(runtime, default_threads(), DEVICE) as worker:
            worker.load("m", file, precision=precision)
            ms = worker.time(["m"], [x], rounds=ROUNDS // 4, warmup=SETTLE)[0]
            dense[f"{runtime} {precision}"] = float(np.median(ms))
    best = min((k for k, v in dense.items() if isinstance(v, float)), key=lambda k: dense[k])
    runtime, precision = best.split()
    with Worker(runtime, default_threads(), DEVICE) as worker:
        loaded = []
        for name, steps in plans.items():
            if loaded and clock.left < 15:
                rows[name] = "skipped: no time left"
                continue
            worker.load(name, build(model, steps, name, runtime, precision, x, folder), precision=precision)
            loaded.append(name)
        times = [
            worker.time(loaded, [x] * len(loaded), rounds=ROUNDS, warmup=SETTLE, resident=r) for r in (False, True)
        ]
        facts = worker.facts()
    for i, name in enumerate(loaded):
        won = speedup(times[0][0], times[0][i], level=0.95)
        share = f.macs_ratio(f.cut(plans[name]))
        rows[name] = {
            "ms": float(np.median(times[0][i])), "resident_ms": float(np.median(times[1][i])), "speedup": won.value,
            "low": won.low, "high": won.high, "macs_ratio": share, "latency_over_macs": 1 / won.value / share,
            "steps": [str(s) for s in plans[name]],
        }  # fmt: skip
    return {"dense_ms": dense, "best": best, "plans": rows, "worker": facts}


def build(model: nn.Module, steps: Steps, name: str, runtime: str, precision: str, x: np.ndarray, folder: Path) -> Path:
    """The model file; one built before is taken."""
    where = folder / f"{name}-{runtime}-{precision}"
    if where.exists():
        return next(where.iterdir())
    reduced = adapt(model, steps).eval()
    return RUNTIMES[runtime].build(reduced, where, shape=x.shape, precision=precision, device=DEVICE)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(seconds: float) -> None:
    clock = Clock(seconds)
    sheet: dict[str, Any] = {"machine": device_facts(), "device": DEVICE, "weights": "random", "rows": {}}
    for batch in (1, 16):
        for name, (model, options, r) in MODELS.items():
            key = f"{name} batch {batch}"
            if clock.left < 25:
                sheet["rows"][key] = "skipped: no time left"
            else:
                try:
                    made = timm.create_model(model, **options).eval()
                    with tempfile.TemporaryDirectory() as folder:
                        sheet["rows"][key] = cell(made, r, batch, Path(folder), clock, compiled=batch == 1)
                except (InputError, RuntimeError) as e:  # the other cells are worth having
                    sheet["rows"][key] = f"failed: {e}"
            say(f"{key}: {json.dumps(sheet['rows'][key])[:400]}")
            write_text(OUT, json.dumps(sheet, indent=1, default=str) + "\n")


DEVICE = "cuda"
BUILDS: list[tuple[str, str]] = []
if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seconds", type=float, default=220.0, help="when to stop")
    asked.add_argument("--device", default=DEVICE)
    asked.add_argument("--why-not", action="store_true", help="only say why nothing can be measured, if so")
    a = asked.parse_args()
    DEVICE = a.device
    lacking = RUNTIMES["eager"].why_not(device=DEVICE)
    if a.why_not or lacking:
        print(lacking or "")
        raise SystemExit(0 if a.why_not else 2)
    BUILDS[:] = dense_builds()
    main(a.seconds)

"""Is the planner's predicted latency right? 30 random schedules of DeiT-S, predicted from the profile and measured."""

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.common import Sheet, beside_dense, target_of
from foveate.adapters import describe
from foveate.hardware.device import default_threads
from foveate.hardware.timer import speedup
from foveate.loading.load import load
from foveate.plans import Step
from foveate.profiling import profile

METHODS = ("tome", "topk", "pomt", "pitome")


def random_steps(rng: np.random.Generator, tokens: int, depth: int) -> tuple[Step, ...]:
    """One to four reducing blocks, methods and counts drawn at random."""
    blocks = sorted(rng.choice(np.arange(2, depth - 1), size=rng.integers(1, 5), replace=False))
    steps, now = [], tokens
    for block in blocks:
        now = int(rng.integers(max(24, now // 2 + 2), now - 4))
        steps.append(Step(block=int(block), method=str(rng.choice(METHODS)), tokens=now))
        if now < 40:
            break
    return tuple(steps)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--runtime", default="openvino")
    args.add_argument("--precision", default="fp32")
    args.add_argument("--model", default="deit_small_patch16_224")
    args.add_argument("--count", type=int, default=30)
    args.add_argument("--fresh", action="store_true")
    a = args.parse_args()
    loaded = load(a.model, random_weights=True)
    f = describe(loaded.model)
    sheet = Sheet(
        f"prediction_{a.model}_{a.runtime}_{a.precision}", fresh=a.fresh, model=a.model, threads=default_threads()
    )
    began = time.monotonic()
    found = profile(loaded.model, target_of(a.runtime, a.precision), methods=METHODS, fresh=a.fresh)
    seconds = time.monotonic() - began
    if a.fresh:
        sheet.row("profile", lambda: {"seconds": seconds, "points": len(found.table.block.tokens)})
    dense = found.dense_ms
    rng = np.random.default_rng(0)
    with beside_dense(loaded, a.runtime, a.precision, 1) as bench:
        errors = []
        for i in range(a.count):
            steps = random_steps(rng, f.tokens, f.depth)

            def measure(steps: tuple[Step, ...] = steps) -> dict[str, Any]:
                build = bench.add("x", steps)
                bench.time(["dense", "x"], 5)
                base, other = bench.time(["dense", "x"], 40).ms
                s = speedup(base, other, level=0.95)
                predicted = found.table.predict(build.plan.schedule, {p.block: p.method for p in steps}) / dense
                bench.drop("x")
                return {
                    "steps": [(p.block, p.method, p.tokens) for p in steps], "predicted": predicted,
                    "measured": 1 / s.value, "low": 1 / s.high, "high": 1 / s.low,
                    "error": predicted * s.value - 1,
                }  # fmt: skip

            errors.append(abs(sheet.row(f"{i}", measure)["error"]))
    sheet.value["rows"].pop("summary", None)
    sheet.row(
        "summary",
        lambda: {"median_error": float(np.median(errors)), "worst_error": float(np.max(errors)), "count": len(errors)},
    )


if __name__ == "__main__":
    main()

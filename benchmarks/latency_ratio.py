"""Does latency fall as fast as the arithmetic? Latency ratio over MAC ratio, in every runtime.

DeiT-S and ViT-B (random weights: speed only), batch 1 and 8: one cut to 128 of 197 tokens after block 4; merging after
blocks 4, 7 and 10; ToMe in all twelve blocks; and what the planner picks for 0.7 of the dense latency. Every runtime
in a process of its own, dense and reduced interleaved inside it.
"""

import argparse
from typing import Any

from benchmarks.common import Sheet, against, beside_dense, cells, say, target_of
from foveate.adapters import describe
from foveate.errors import InputError
from foveate.evaluate import open_images
from foveate.fitting.bench import rounds_for
from foveate.hardware.device import default_threads
from foveate.loading.load import load
from foveate.planning import plan_candidates
from foveate.plans import Step
from foveate.profiling import profile
from foveate.schedule import Schedule

MODELS = ("deit_small_patch16_224", "vit_base_patch16_224")
FIXED = {
    "one cut to 128": (Step(block=3, method="topk", tokens=128),),
    "three blocks": tuple(Step(block=b, method="tome", tokens=n) for b, n in ((3, 152), (6, 112), (9, 80))),
    "tome r=13": tuple(
        Step(block=b, method="tome", tokens=n) for b, n in enumerate(Schedule.tome(197, 12, 13).after)
    ),
}  # fmt: skip


def ratio(model: Any, steps: tuple[Step, ...]) -> float:
    f = describe(model)
    return f.macs_ratio(f.cut(steps))


def picked(model: Any, runtime: str, precision: str, batch: int, preprocess: Any) -> tuple[Step, ...]:
    """The planner's choice for 0.7 of the dense latency, on the bundled photographs."""
    found = profile(model, target_of(runtime, precision, batch), seconds=20)
    dense = found.dense_ms
    images = open_images(None, unlabelled=True, limit=16).array(preprocess)
    best = plan_candidates(model, images, None, found.table, latency_ms=0.7 * dense, budget_seconds=20, seed=0)
    able = [c for c in best if c.steps and c.predicted_ms <= 0.7 * dense]
    return tuple(min(able, key=lambda c: c.loss).steps)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--fresh", action="store_true")
    args.add_argument("--runtime", action="append", help="only these")
    args.add_argument("--batch", action="append", type=int)
    args.add_argument("--model", action="append")
    args.add_argument("--pairs", type=int, default=60)
    args.add_argument("--no-planner", action="store_true", help="only the fixed plans; the others can be added later")
    a = args.parse_args()
    sheet = Sheet("latency_ratio", fresh=a.fresh, pairs=a.pairs, threads=default_threads(), weights="random")
    for name in a.model or MODELS:
        loaded = load(name, random_weights=True)
        for runtime, precision, batch in cells(a.runtime, a.batch or (1, 8)):
            try:
                one(sheet, name, loaded, runtime, precision, batch, a.pairs, planner=not a.no_planner)
            except (InputError, RuntimeError) as e:
                say(f"{name} {runtime} {precision} batch {batch} failed: {e}")


def one(
    sheet: Sheet, name: str, loaded: Any, runtime: str, precision: str, batch: int, pairs: int, planner: bool
) -> None:
    kinds = (*FIXED, "pareto") if planner else tuple(FIXED)
    keys = {kind: f"{name} {runtime} {precision} b{batch} {kind}" for kind in kinds}
    if all(k in sheet.value["rows"] for k in keys.values()):
        return
    plans = dict(FIXED)
    if planner:
        plans["pareto"] = picked(loaded.model, runtime, precision, batch, loaded.preprocess)
    with beside_dense(loaded, runtime, precision, batch) as bench:
        for kind, steps in plans.items():

            def measure(kind: str = kind, steps: tuple[Step, ...] = steps) -> dict[str, Any]:
                bench.add(kind, steps)
                first = bench.time(["dense", kind], 3, warmup=1).median("dense")
                base, other = bench.time(["dense", kind], min(pairs, rounds_for(first, 6.0, least=12))).ms
                bench.drop(kind)
                return {
                    "model": name, "kind": kind, "steps": [(p.block, p.method, p.tokens) for p in steps],
                    **against(bench, base, other, ratio(loaded.model, steps)),
                }  # fmt: skip

            sheet.row(keys[kind], measure)


if __name__ == "__main__":
    main()

"""Does an IRET-style model's latency fall as its arithmetic does? The configurations of the specification's table.

Random weights: speed only. Each model at its operating points in one process of its runtime with the ViT that its
table is relative to, taking turns, batch 1; fp32, and what else --precision names.
"""

import argparse
from typing import Any

import timm
import torch

import foveate.models  # noqa: F401  puts ours into timm's registry
from benchmarks.common import Sheet, against, beside_dense, cells
from foveate.adapters import adapt, describe
from foveate.adapters.iret import steps_of
from foveate.hardware.device import default_threads
from foveate.loading.load import load
from foveate.models.iret import Counts

# By label: the model and its options, its ViT, and the shares of the patches that stay at its transitions. The tokens
# that the residual variant keeps are full tiles of a matrix product, as a planner would choose them: 128, 96 and 64.
FULL, TILES = (1, 1, 1), (127 / 196, 95 / 196, 63 / 196)
POINTS: dict[str, tuple[str, dict[str, Any], str, list[tuple[float, ...]]]] = {
    "residual tiny": (
        "iret_residual_tiny_patch16_224", {"transitions": (2, 5, 8)}, "vit_tiny_patch16_224", [FULL, TILES]),
    "residual small": (
        "iret_residual_small_patch16_224", {"transitions": (2, 5, 8)}, "vit_small_patch16_224", [FULL, TILES]),
    "stitched S2": ("iret_stitched_small2_patch16_224", {}, "vit_small_patch16_224", [(1,), (0.7,), (0.5,)]),
    "concat S3": ("iret_concat_small3_patch16_224", {}, "vit_small_patch16_224", [(0.7, 0.49)]),
    "concat S3, linear": ("iret_concat_small3_patch16_224", {"hidden": 0}, "vit_small_patch16_224", [(0.7, 0.49)]),
    "concat B3": ("iret_concat_base3_patch16_224", {}, "vit_base_patch16_224", [(1, 1), (0.7, 0.49), (0.5, 0.25)]),
    "concat B3, linear": ("iret_concat_base3_patch16_224", {"hidden": 0}, "vit_base_patch16_224", [(0.7, 0.49)]),
}  # fmt: skip


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--fresh", action="store_true")
    args.add_argument("--model", action="append", choices=POINTS)
    args.add_argument("--runtime", action="append")
    args.add_argument("--precision", action="append")
    args.add_argument("--rounds", type=int, default=100)
    a = args.parse_args()
    sheet = Sheet("iret_latency", fresh=a.fresh, rounds=a.rounds, threads=default_threads(), weights="random")
    for name in a.model or POINTS:
        for runtime, precision, batch in cells(a.runtime or ("onnxruntime", "openvino"), (1,)):
            if precision in (a.precision or ("fp32",)):
                measure(sheet, name, runtime, precision, batch, a.rounds)


def measure(sheet: Sheet, name: str, runtime: str, precision: str, batch: int, rounds: int) -> None:
    """The rows of one model in one runtime; nothing where they are there."""
    model_name, options, of, points = POINTS[name]
    keys = {shares: f"{name} {runtime} {precision} {' '.join(f'{s:g}' for s in shares)}" for shares in points}
    if all(k in sheet.value["rows"] for k in keys.values()):
        return
    torch.manual_seed(0)
    model = timm.create_model(model_name, **options).eval()
    vit = load(of, random_weights=True)
    facts, dense = describe(model), describe(vit.model)
    with beside_dense(vit, runtime, precision, batch) as bench:
        schedules = {}
        for shares, key in keys.items():
            counts = Counts(keep=tuple(round(s * model.num_patches) for s in shares[: len(facts.turns)]))
            steps = tuple(steps_of(model, counts)) if min(shares) < 1 else ()
            bench.add(key, steps, module=adapt(model, steps).eval())
            schedules[key] = facts.cut(steps)
        labels = ["dense", *schedules]
        bench.time(labels, 5, warmup=2)
        base, *others = bench.time(labels, rounds).ms
        for (key, schedule), other in zip(schedules.items(), others, strict=True):
            ratio = facts.macs(schedule) / dense.macs(dense.cut(()))
            row = {
                "kind": name, "model": model_name, "of": of,
                "kept": [schedule.after[t] - facts.prefix for t in facts.turns], **against(bench, base, other, ratio),
            }  # fmt: skip
            sheet.row(key, lambda row=row: row)


if __name__ == "__main__":
    main()

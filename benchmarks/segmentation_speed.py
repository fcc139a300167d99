"""Segmenter on ViTTM against Segmenter on the ViT: windows a second, in every runtime, batch 1.

Random weights: speed only. Windows of 512 pixels, 504 for patches of 28, 150 classes, masks upsampled to pixels, as
published for ADE20K: 13.8 and 26.8 photographs a second for base (GPU, device unknown), 1.94 times as many.
"""

import argparse
from typing import Any

import timm
import torch

import foveate.models  # noqa: F401  puts ours into timm's registry
from benchmarks.common import Sheet, against, beside_dense, say
from foveate.adapters import adapt, describe
from foveate.adapters.load import load
from foveate.errors import InputError
from foveate.hardware.device import default_threads
from foveate.runtimes import RUNTIMES

OTHERS = {"ViTTM 28/28": "segmenter_vittm_{}_patch28_504", "ViTTM 32/16": "segmenter_vittm_{}_patch32_mem16_512"}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--fresh", action="store_true")
    args.add_argument("--size", action="append", help="tiny, small, base")
    args.add_argument("--runtime", action="append")
    args.add_argument("--rounds", type=int, default=30)
    a = args.parse_args()
    sheet = Sheet("segmentation_speed", fresh=a.fresh, rounds=a.rounds, threads=default_threads(), weights="random")
    for size in a.size or ("base", "tiny"):
        vit = load(f"segmenter_vit_{size}_patch16_512", random_weights=True)
        torch.manual_seed(0)
        models = {kind: timm.create_model(name.format(size)).eval() for kind, name in OTHERS.items()}
        for runtime in a.runtime or RUNTIMES:
            for precision in ("fp32", "bf16"):
                if reason := RUNTIMES[runtime].why_not(precision):
                    say(f"{runtime} {precision}: {reason}")
                    continue
                keys = {kind: f"{size} {runtime} {precision} {kind}" for kind in OTHERS}
                if all(k in sheet.value["rows"] for k in keys.values()):
                    continue
                try:
                    found = measured(vit, models, runtime, precision, a.rounds)
                except (InputError, RuntimeError) as e:
                    say(f"{size} {runtime} {precision} failed: {e}")
                    continue
                for kind, row in found.items():
                    sheet.row(keys[kind], lambda row=row, size=size: {"size": size, **row})


def measured(vit: Any, models: dict[str, Any], runtime: str, precision: str, rounds: int) -> dict[str, dict[str, Any]]:
    macs = lambda m: (f := describe(m)).macs(f.cut(()))
    with beside_dense(vit, runtime, precision, 1) as bench:
        for kind, model in models.items():
            bench.add(kind, module=adapt(model).eval())
        labels = ["dense", *models]
        bench.time(labels, 2, warmup=1)
        ms = bench.time(labels, min(rounds, bench.rounds_for("dense", seconds=15.0, least=12)))
        rows = {}
        for kind, other in zip(models, ms[1:], strict=True):
            row = {"kind": kind, **against(bench, ms[0], other, macs(models[kind]) / macs(vit.model))}
            rows[kind] = row | {"fps_ratio": 1 / row["latency_ratio"]}
        return rows


if __name__ == "__main__":
    main()

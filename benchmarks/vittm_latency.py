"""ViTTM against the ViT it is made of, and against that ViT with patches as large as its own: latency in every runtime.

Random weights: speed only. All four models of a size in one process of their runtime, taking turns. Published: ViTTM-B
takes 0.442 of ViT-B's time (eager fp32, device unknown).
"""

import argparse
from typing import Any

import timm
import torch
from torch import nn

import foveate.models  # noqa: F401  puts ours into timm's registry
from benchmarks.common import Sheet, cells, contest
from benchmarks.vittm_accuracy import SCRATCH
from foveate.hardware.device import default_threads
from foveate.loading.load import Loaded, load

OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT, patch 28": ("vit_{}_patch16_224", {"patch_size": 28}),
    "ViTTM 28/28": ("vittm_{}_patch28_224", {}),
    "ViTTM 32/16": ("vittm_{}_patch32_mem16_224", {}),
}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--fresh", action="store_true")
    args.add_argument("--size", action="append", help="tiny, small, base, imagenette")
    args.add_argument("--runtime", action="append")
    args.add_argument("--batch", action="append", type=int)
    args.add_argument("--rounds", type=int, default=40)
    a = args.parse_args()
    sheet = Sheet("vittm_latency", fresh=a.fresh, rounds=a.rounds, threads=default_threads(), weights="random")
    for size in a.size or ("base", "tiny", "imagenette"):
        torch.manual_seed(0)
        vit, models = contestants(size)
        for runtime, precision, batch in cells(a.runtime, a.batch or (1, 8)):
            contest(sheet, size, vit, models, runtime, precision, batch, a.rounds)


def contestants(size: str) -> tuple[Loaded, dict[str, nn.Module]]:
    """The ViT and its opponents, with random weights; `imagenette`: the small ones of benchmarks.vittm_accuracy."""
    if size != "imagenette":
        made = {kind: timm.create_model(name.format(size), **options) for kind, (name, options) in OTHERS.items()}
        return load(f"vit_{size}_patch16_224", random_weights=True), {k: m.eval() for k, m in made.items()}
    small = {kind: timm.create_model(s["model"], img_size=112, **s["options"]) for kind, s in SCRATCH.items()}
    first = SCRATCH["ViT/16"]
    vit = load(first["model"], random_weights=True, img_size=112, **first["options"])
    return vit, {"ViT, patch 28" if k == "ViT/28" else k: m.eval() for k, m in small.items() if k != "ViT/16"}


if __name__ == "__main__":
    main()

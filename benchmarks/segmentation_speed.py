"""Segmenter on ViTTM against Segmenter on the ViT: windows a second, in every runtime, batch 1.

Random weights: speed only. Windows of 512 pixels, 504 for patches of 28, 150 classes, masks upsampled to pixels, as
published for ADE20K: 13.8 and 26.8 photographs a second for base (GPU, device unknown), 1.94 times as many.
"""

import argparse

import timm
import torch

import foveate.models  # noqa: F401  puts ours into timm's registry
from benchmarks.common import Sheet, cells, contest
from foveate.hardware.device import default_threads
from foveate.loading.load import load

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
        for runtime, precision, batch in cells(a.runtime, (1,)):
            contest(sheet, size, vit, models, runtime, precision, batch, a.rounds)


if __name__ == "__main__":
    main()

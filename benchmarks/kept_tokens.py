"""Which tokens each method keeps of the pictures in hires/, drawn: python -m benchmarks.kept_tokens OUT [--budget 0.1]

A LLaVA-NeXT of which only the tower is real: ViT-Tiny (augreg in21k_ft_in1k), tiles of 224 pixels, 196 tokens each.
What a language model would make of it is not asked.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

import foveate.vlm
from benchmarks.common import data_folder, say
from foveate.budgets import Budget
from foveate.budgets.registered import BUDGETS
from foveate.files import replacing
from foveate.loading.convert_hf import to_vit
from foveate.loading.load import load
from foveate.report.tokens import kept_tokens
from foveate.vlm.applying import reduce

PINPOINTS = [[224, 448], [448, 224], [448, 448], [672, 224], [224, 672]]
IMAGE = 199


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("out", type=Path)
    args.add_argument("--budget", type=float, default=0.1)
    args.add_argument("--method", action="append", choices=sorted(BUDGETS))
    a = args.parse_args()
    import transformers as hf

    weights = data_folder() / "weights" / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
    tower = to_vit(load("vit_tiny_patch16_224", weights=weights).model)
    torch.manual_seed(0)
    text = hf.LlamaConfig(
        vocab_size=200, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    config = hf.LlavaNextConfig(
        vision_config=tower.config, text_config=text, image_token_index=IMAGE, image_grid_pinpoints=PINPOINTS
    )
    model = hf.LlavaNextForConditionalGeneration(config).eval()
    model.model.vision_tower = tower
    processor = hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}, image_grid_pinpoints=PINPOINTS,
        image_mean=[0.5] * 3, image_std=[0.5] * 3,
    )  # fmt: skip
    family = foveate.vlm.family_of(model)
    a.out.mkdir(parents=True, exist_ok=True)
    for path in sorted((data_folder() / "hires").iterdir()):
        image = Image.open(path).convert("RGB")
        tokens = family.tiling((image.height, image.width)).tokens
        seen = processor(images=[image], return_tensors="pt")
        ids = torch.tensor([[1, *[IMAGE] * tokens, 5]])
        inputs = {"pixel_values": seen["pixel_values"], "image_sizes": seen["image_sizes"], "input_ids": ids}
        for method in a.method or sorted(BUDGETS):
            reduced = reduce(family, BUDGETS[method](), Budget(ratio=a.budget), inputs)
            assert reduced is not None
            (kept,) = reduced.kept
            with replacing(a.out / f"{path.stem}-{method}.png") as part:
                kept_tokens(image, kept.tiling, kept.cells.tolist()).save(part, format="PNG")
            say(f"{path.name} {method}: {len(kept.rows)} of {tokens}, by part {kept.per_part}")


if __name__ == "__main__":
    main()

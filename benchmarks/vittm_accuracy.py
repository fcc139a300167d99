"""What memory is worth: a ViT, a ViT of larger patches and two ViTTMs, one recipe, same data and epochs.

From scratch on Imagenette (FOVEATE_DATA): at 112 pixels with patches half as large as the published ones at 224, so
with the same numbers of tokens, and blocks of width 96. From the real ViT-Tiny on clothing photographs: at 224 pixels.
An hour or two for each on two cores; a run that was broken off goes on from its last checkpoint.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import foveate.models
from benchmarks.common import Sheet, data_folder, told
from foveate import load
from foveate.adapters import describe
from foveate.commands.evaluate import evaluate
from foveate.models.vittm import retrofit
from foveate.train import Recipe, load_recipe, train

RECIPES = Path(__file__).parent.parent / "recipes"
WIDTH = {"embed_dim": 96, "depth": 6, "num_heads": 3}
SCRATCH: dict[str, dict[str, Any]] = {
    "ViT/16": {"model": "vit_tiny_patch16_224", "options": {"patch_size": 8, **WIDTH}},
    "ViT/28": {"model": "vit_tiny_patch16_224", "options": {"patch_size": 14, **WIDTH}},
    "ViTTM 28/28": {"model": "vittm_tiny_patch28_224", "options": {"patch_size": 14, **WIDTH}},
    "ViTTM 32/16": {
        "model": "vittm_tiny_patch32_mem16_224", "options": {"patch_size": 16, "memory_patch_size": 8, **WIDTH}
    },
}  # fmt: skip
TUNED: dict[str, dict[str, Any]] = {
    "ViT/16": {"model": "vit_tiny_patch16_224", "options": {}},
    "ViT/28": {"model": "vit_tiny_patch16_224", "options": {"patch_size": 28}},
    "ViTTM 28/28": {"model": "vittm_tiny_patch28_224", "options": {"norm": "pre"}},
    "ViTTM 32/16": {"model": "vittm_tiny_patch32_mem16_224", "options": {"norm": "pre"}},
}


def from_vit(weights: Path, options: dict[str, Any], model: nn.Module) -> None:
    """The real ViT-Tiny's weights in the form of `model`."""
    vit: Any = load("vit_tiny_patch16_224", weights=weights).model
    vit.reset_classifier(10)
    nn.init.zeros_(vit.head.weight)
    if isinstance(model, foveate.models.vittm.ViTTM):
        patches = {
            "patch_size": model.process_embed.patch_size[0],
            "memory_patch_size": model.memory_embed.patch_size[0],
        }
        vit = retrofit(vit, **patches, **options)
    elif "patch_size" in options:
        vit.set_input_size(patch_size=options["patch_size"])
    model.load_state_dict(vit.state_dict())


def folder_of(out: Path, what: str, kind: str, seed: int) -> Path:
    """Where the run of a row is."""
    return out / f"{what}-{kind.replace('/', '-').replace(' ', '-')}-{seed}"


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--fresh", action="store_true")
    args.add_argument("--what", action="append", choices=["scratch", "tuned"])
    args.add_argument("--model", action="append", choices=list(SCRATCH))
    args.add_argument("--seed", action="append", type=int)
    args.add_argument("--out", type=Path, default=Path("runs"))
    a = args.parse_args()
    sheet, data = Sheet("vittm_accuracy", fresh=a.fresh), data_folder()
    for what in a.what or ("scratch", "tuned"):
        for seed in a.seed or (0,):
            for kind in a.model or SCRATCH:
                sheet.row(f"{what} {kind} seed {seed}", partial(one, what, kind, seed, data, a.out))


def one(what: str, kind: str, seed: int, data: Path, out: Path) -> dict[str, Any]:
    if what == "scratch":
        base, values, test = (
            load_recipe(RECIPES / "imagenette.py"),
            SCRATCH[kind],
            "imagenette10/imagenette10_112.zip/val",
        )
    else:
        base, values, test = (
            load_recipe(RECIPES / "clothing_retrofit.py"),
            TUNED[kind],
            "clothing10/clothing10_160.zip/test",
        )
        weights = data / "weights" / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
        values = values | {"start": partial(from_vit, weights, values["options"])}
    recipe = Recipe(**{name: getattr(base, name) for name in Recipe.model_fields} | values | {"seed": seed})
    where = folder_of(out, what, kind, seed)
    done = train(recipe, where, resumed=(where / "last.pt").exists(), progress=told())
    judged = evaluate(where, data=data / test)
    model = load(str(where)).model
    facts = describe(model)
    return {
        "what": what, "kind": kind, "seed": seed, "best_validation": done.best_score, "last": done.last,
        "top1": judged.value, "low": judged.low, "high": judged.high, "images": judged.n, "data": test,
        "gmacs": facts.macs(facts.cut(())) / 1e9, "tokens": facts.tokens, "memory": facts.memory,
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": recipe.epochs, "minutes": done.seconds / 60, "threads": torch.get_num_threads(),
    }  # fmt: skip


if __name__ == "__main__":
    main()

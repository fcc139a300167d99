"""`foveate fit` on folders of Hugging Face's: FOVEATE_DATA=... python -m benchmarks.hf_fits    (quiet machine, 10 min)

No hub is asked. The folders are made from the real ViT-Tiny: a classifier, `ViTForImageClassification`, and a tower in
SigLIP's form, `SiglipVisionModel`, for embeddings. The tower has the trained blocks, patches and positions without the
class token. For the head that attends to its tokens nothing trained is here: its weights are set so that it averages
them. Quality is kNN accuracy beside that of the whole tower.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Sheet, data_folder, say
from foveate.files import read_text
from foveate.loading.convert import renamed
from foveate.loading.convert_hf import RULES, to_vit
from foveate.loading.load import Loaded, load

NAME = "vit_tiny_patch16_224"
WEIGHTS = "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"


def source() -> Loaded:
    return load(NAME, weights=data_folder() / "weights" / WEIGHTS)


def classifier(folder: Path) -> None:
    import transformers as hf

    given = source()
    tower: Any = to_vit(given.model)
    config, head = tower.config, given.model.head
    names = [f"{n} {name}" for n, name in enumerate(given.classes or ())]
    config.id2label, config.label2id = dict(enumerate(names)), {name: n for n, name in enumerate(names)}
    model = hf.ViTForImageClassification(config)
    model.vit.load_state_dict(tower.state_dict())
    model.classifier.load_state_dict(head.state_dict())  # type: ignore[union-attr]
    write(model, folder)


def tower(folder: Path) -> None:
    import transformers as hf

    given = source().model
    config: Any = to_vit(given).config
    torch.manual_seed(0)
    model = hf.SiglipVisionModel(
        hf.SiglipVisionConfig(
            hidden_size=config.hidden_size, intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers, num_attention_heads=config.num_attention_heads,
            image_size=config.image_size, patch_size=config.patch_size, layer_norm_eps=config.layer_norm_eps,
            hidden_act="gelu",
        )
    )  # fmt: skip
    rows, found = given.state_dict(), {}
    for key, drawn in model.state_dict().items():
        name = next(iter(renamed({key: drawn}, RULES)))  # as timm calls it
        part = next((n for n, letter in enumerate("qkv") if f".{letter}_proj." in name), None)
        if name.startswith("head."):
            found[key] = averaging(key.rpartition("head.")[2], drawn)
        elif name == "pos_embed":
            found[key] = rows[name][0, 1:]  # without the class token's
        elif part is not None:
            found[key] = rows[name.replace(f"{'qkv'[part]}_proj", "qkv")].chunk(3)[part]
        else:
            found[key] = rows[name]
    model.load_state_dict(found)
    write(model, folder)


def averaging(name: str, drawn: torch.Tensor) -> torch.Tensor:
    """SigLIP's head as a mean: all tokens asked alike, values passed on, nothing added by the MLP."""
    width = drawn.shape[-1]
    if name == "attention.in_proj_weight":
        return torch.cat([torch.zeros(2 * width, width), torch.eye(width)])
    if name == "attention.out_proj.weight":
        return torch.eye(width)
    return drawn if name.startswith(("layernorm", "mlp.fc1")) else torch.zeros_like(drawn)


def write(model: Any, folder: Path) -> None:
    model.eval().save_pretrained(folder)
    side = model.config.image_size
    asked = {
        "do_resize": True, "size": {"height": side, "width": side}, "resample": 3, "do_rescale": True,
        "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(asked, indent=1) + "\n")


KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "ViTForImageClassification": (classifier, "nips17_dev/nips17_dev_299.zip"),
    "SiglipVisionModel": (tower, "imagenette10/imagenette10_112.zip/val"),
}


def fitted(kind: str, images: int, out: Path | None) -> dict[str, Any]:
    """What one fit came to, read off the folder that it wrote."""
    import foveate

    make, photographs = KINDS[kind]
    with tempfile.TemporaryDirectory() as tmp:
        folder, written = Path(tmp) / kind, (out or Path(tmp)) / f"{kind}-fit"
        make(folder)
        foveate.fit(
            str(folder), data=data_folder() / photographs, images=images, fresh=True, out=written,
            progress=lambda stage, share, text: None, say=say,
        )  # fmt: skip
        verdict = json.loads(read_text(written / "verdict.json"))
    kept = ("reason", "budget", "speedup", "cost", "agreement", "latency_ms", "ladder", "seconds")
    return {"photographs": photographs, "images": images, **{key: verdict.get(key) for key in kept}}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--images", type=int, default=1000)
    args.add_argument("--kind", action="append", choices=KINDS)
    args.add_argument("--out", type=Path, help="where the fitted folders stay; by default nowhere")
    args.add_argument("--make", type=Path, help="only write the folders, there")
    args.add_argument("--fresh", action="store_true")
    a = args.parse_args()
    if a.make is not None:
        for kind, (make, _) in KINDS.items():
            make(a.make / kind)
        return
    sheet = Sheet("hf_fits", fresh=a.fresh)
    for kind in a.kind or KINDS:
        sheet.row(kind, lambda kind=kind: fitted(kind, a.images, a.out))


if __name__ == "__main__":
    main()

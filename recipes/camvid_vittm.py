"""Road scenes into 11 classes (CamVid, 367 photographs of 480 x 360) by a Segmenter on a ViTTM of the real ViT-Tiny.

    FOVEATE_DATA=... foveate train recipes/camvid_vittm.py

Windows of 336 pixels: 144 process and 144 memory tokens. Beside the ViT of `camvid_vit.py`: docs/benchmarks.md.
"""

import os
from pathlib import Path
from typing import Any

from foveate import load
from foveate.models.vittm import retrofit
from foveate.train import load_recipe

WEIGHTS = "$FOVEATE_DATA/weights/vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"


def from_vit(model: Any) -> None:
    vit: Any = load("vit_tiny_patch16_224", weights=os.path.expandvars(WEIGHTS)).model
    made = retrofit(vit, patch_size=28, norm="pre")
    made.set_input_size(336)
    made.prune_intermediate_layers(1, prune_norm=True, prune_head=True)
    model.backbone.load_state_dict(made.state_dict())


# Head, data and schedule are those of the ViT, so that only the backbone differs.
recipe = load_recipe(Path(__file__).with_name("camvid_vit.py")).model_copy(
    update={"model": "segmenter_vittm_tiny_patch28_504", "options": {"norm": "pre"}, "start": from_vit}
)

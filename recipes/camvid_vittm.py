"""Road scenes into 11 classes (CamVid, 367 photographs of 480 x 360) by a Segmenter on a ViTTM of the real ViT-Tiny.

    FOVEATE_DATA=... foveate train recipes/camvid_vittm.py

Windows of 336 pixels: 144 process and 144 memory tokens. Beside the ViT of `camvid_vit.py`: docs/benchmarks.md.
"""

import os
from typing import Any

from foveate import load
from foveate.models.vittm import retrofit
from foveate.train import Augment, Recipe, Segment

WEIGHTS = "$FOVEATE_DATA/weights/vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"


def from_vit(model: Any) -> None:
    vit: Any = load("vit_tiny_patch16_224", weights=os.path.expandvars(WEIGHTS)).model
    made = retrofit(vit, patch_size=28, norm="pre")
    made.set_input_size(336)
    made.prune_intermediate_layers(1, prune_norm=True, prune_head=True)
    model.backbone.load_state_dict(made.state_dict())


recipe = Recipe(
    model="segmenter_vittm_tiny_patch28_504",
    options={"norm": "pre"},
    start=from_vit,
    data="$FOVEATE_DATA/camvid11/camvid11_480x360.zip",
    task=Segment(classes=11),
    image_size=336,
    epochs=30,
    batch=8,
    lr=5e-4,
    layer_decay=None,
    warmup_epochs=1,
    weight_decay=0.05,
    ema=0.99,
    validate_every=5,
    augment=Augment(zoom=(0.75, 1.75), color_jitter=0.3),
)

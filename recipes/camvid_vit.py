"""Road scenes into 11 classes (CamVid, 367 photographs of 480 x 360) by a Segmenter on the real ViT-Tiny.

    FOVEATE_DATA=... foveate train recipes/camvid_vit.py

Windows of 336 pixels: 441 tokens. Beside the ViTTM of `camvid_vittm.py`: docs/benchmarks.md.
"""

import os
from typing import Any

from foveate import load
from foveate.train import Augment, Recipe, Segment

WEIGHTS = "$FOVEATE_DATA/weights/vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"


def from_vit(model: Any) -> None:
    vit: Any = load("vit_tiny_patch16_224", weights=os.path.expandvars(WEIGHTS)).model
    vit.set_input_size(336)
    vit.prune_intermediate_layers(1, prune_norm=True, prune_head=True)
    model.backbone.load_state_dict(vit.state_dict())


recipe = Recipe(
    model="segmenter_vit_tiny_patch16_512",
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

"""A ViTTM made of the real ViT-Tiny and fine-tuned on clothing photographs (10 classes, 3,068 of them).

    FOVEATE_DATA=... foveate train recipes/clothing_retrofit.py

Blocks come from the ViT's ImageNet weights, embeddings are resized, reads and writes start anew. The streams keep their
scale (norm="pre"), so that before anything is read the blocks see what they were trained on. What came of it, beside
the ViT itself and other ways to fewer tokens: docs/benchmarks.md.
"""

import os
from typing import Any

from torch import nn

from foveate import load
from foveate.models.vittm import retrofit
from foveate.train import Augment, Classify, Recipe

WEIGHTS = "$FOVEATE_DATA/weights/vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"


def from_vit(model: nn.Module) -> None:
    vit: Any = load("vit_tiny_patch16_224", weights=os.path.expandvars(WEIGHTS)).model
    vit.reset_classifier(10)
    nn.init.zeros_(vit.head.weight)
    made = retrofit(vit, patch_size=28, norm="pre")
    model.load_state_dict(made.state_dict())


recipe = Recipe(
    model="vittm_tiny_patch28_224",
    options={"norm": "pre"},
    start=from_vit,
    data="$FOVEATE_DATA/clothing10/clothing10_160.zip",
    task=Classify(smoothing=0.1),
    epochs=12,
    batch=32,
    lr=5e-4,
    layer_decay=0.75,
    warmup_epochs=1,
    weight_decay=0.05,
    ema=0.99,
    augment=Augment(scale=(0.35, 1.0), color_jitter=0.3),
)

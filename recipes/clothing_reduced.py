"""The real ViT-Tiny fine-tuned on clothing photographs through one plan, in EViT's manner.

    FOVEATE_DATA=... foveate train recipes/clothing_reduced.py

EViT in its own blocks; the steps of any plan.json may stand in their place. Beside it: docs/benchmarks.md.
"""

import os
from typing import Any

from torch import nn

from foveate import Step, load
from foveate.train import Augment, Classify, Recipe, Through

WEIGHTS = "$FOVEATE_DATA/weights/vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
COUNTS = {3: 129, 6: 84, 9: 55}  # keeps 65 % of the patches in each of these blocks


def from_weights(model: nn.Module) -> None:
    vit: Any = load("vit_tiny_patch16_224", weights=os.path.expandvars(WEIGHTS)).model
    vit.reset_classifier(10)
    nn.init.zeros_(vit.head.weight)
    model.load_state_dict(vit.state_dict())


recipe = Recipe(
    model="vit_tiny_patch16_224",
    start=from_weights,
    data="$FOVEATE_DATA/clothing10/clothing10_160.zip",
    task=Through([Step(block=b, method="evit", tokens=n) for b, n in COUNTS.items()], Classify(smoothing=0.1)),
    epochs=8,
    batch=32,
    lr=5e-4,
    layer_decay=0.75,
    warmup_epochs=1,
    weight_decay=0.05,
    ema=0.99,
    augment=Augment(scale=(0.35, 1.0), color_jitter=0.3),
)

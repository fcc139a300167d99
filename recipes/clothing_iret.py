"""An IRET-style model on the real ViT-Tiny's blocks, fine-tuned on clothing photographs for all operating points.

    FOVEATE_DATA=... foveate train recipes/clothing_iret.py

Tokens are coarse until the third block; there detail comes, and tokens go, there and twice more. After a third of the
run each image is seen with fewer tokens as well. Beside it, the same ViT fine-tuned whole and through one plan
(`clothing_reduced.py`): docs/benchmarks.md.
"""

import os
from typing import Any

from torch import nn

from foveate import load
from foveate.models.iret import from_vit
from foveate.train import Augment, Incremental, Recipe

WEIGHTS = "$FOVEATE_DATA/weights/vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
TRANSITIONS = (2, 5, 8)


def from_weights(model: nn.Module) -> None:
    vit: Any = load("vit_tiny_patch16_224", weights=os.path.expandvars(WEIGHTS)).model
    vit.reset_classifier(10)
    nn.init.zeros_(vit.head.weight)
    model.load_state_dict(from_vit(vit, transitions=TRANSITIONS).state_dict())


recipe = Recipe(
    model="iret_residual_tiny_patch16_224",
    options={"transitions": TRANSITIONS},
    start=from_weights,
    data="$FOVEATE_DATA/clothing10/clothing10_160.zip",
    task=Incremental(least=0.5, sharp=0.8, warm=0.3, smoothing=0.1),
    epochs=8,
    batch=32,
    lr=5e-4,
    layer_decay=0.75,
    warmup_epochs=1,
    weight_decay=0.05,
    ema=0.99,
    augment=Augment(scale=(0.35, 1.0), color_jitter=0.3),
)

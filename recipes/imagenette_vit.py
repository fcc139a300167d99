"""A small ViT from scratch on Imagenette (10 ImageNet classes, 112 px): what the others are compared with.

    FOVEATE_DATA=... foveate train recipes/imagenette_vit.py

196 tokens of 8 pixels, ViT-Ti's depth and half its width.
"""

from foveate.train import Augment, Classify, Recipe

recipe = Recipe(
    model="vit_tiny_patch16_224",
    options={"patch_size": 14, "embed_dim": 144, "depth": 6, "num_heads": 3},
    data="$FOVEATE_DATA/imagenette10/imagenette10_112.zip",
    task=Classify(smoothing=0.1),
    image_size=112,
    epochs=14,
    batch=64,
    lr=1e-3,
    warmup_epochs=1,
    weight_decay=0.05,
    ema=0.995,
    augment=Augment(scale=(0.35, 1.0), color_jitter=0.3),
)

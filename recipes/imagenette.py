"""A ViT from scratch on Imagenette (10 ImageNet classes, photographs of 112 pixels).

    FOVEATE_DATA=... foveate train recipes/imagenette.py

64 tokens of 14 pixels, as many as a ViT/28 has at 224; six blocks of width 96, so that two cores do. What else was
trained by it, and what came of it: docs/benchmarks.md.
"""

from foveate.train import Augment, Classify, Recipe

recipe = Recipe(
    model="vit_tiny_patch16_224",
    options={"patch_size": 14, "embed_dim": 96, "depth": 6, "num_heads": 3},
    data="$FOVEATE_DATA/imagenette10/imagenette10_112.zip",
    task=Classify(smoothing=0.1),
    image_size=112,
    epochs=14,
    batch=64,
    lr=1.5e-3,
    warmup_epochs=1,
    weight_decay=0.05,
    ema=0.995,
    augment=Augment(scale=(0.35, 1.0), color_jitter=0.3),
)

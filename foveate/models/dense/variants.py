"""Dense ViTs in timm's registry: `timm.create_model("dense_vit_small_patch14_dinov2", num_classes=1, img_size=224)`.

All of a model is built for one side in pixels, which `img_size` changes.
"""

from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs

from foveate.models.dense.model import DenseViT
from foveate.models.registering import register

HALF = (0.5, 0.5, 0.5)
# Ours -> timm's name, side in pixels, mean and deviation its weights were trained with.
FAMILIES: dict[str, tuple[str, tuple[str, ...], int, tuple[float, ...], tuple[float, ...]]] = {
    "dense_vit_{}_patch16_224": ("vit_{}_patch16_224", ("tiny", "small", "base"), 224, HALF, HALF),
    "dense_vit_{}_patch14_dinov2": (
        "vit_{}_patch14_dinov2", ("small", "base", "large"), 518, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD,
    ),
}  # fmt: skip

NAMES: dict[str, dict[str, Any]] = {}
configs: dict[str, Any] = {}
for name, (backbone, sizes, side, mean, std) in FAMILIES.items():
    for size in sizes:
        NAMES[name.format(size)] = {"backbone": backbone.format(size), "img_size": side}
        configs[name.format(size)] = {
            "input_size": (3, side, side),
            "num_classes": 150,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": mean,
            "std": std,
            "first_conv": (),
            "classifier": (),
        }
default_cfgs = generate_default_cfgs(configs)


register(__name__, DenseViT, NAMES, "Dense ViT: no published weights.")

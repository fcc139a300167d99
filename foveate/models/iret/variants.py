"""Names for timm's registry: `timm.create_model("iret_residual_tiny_patch16_224", num_classes=10)`.

Residual sizes are DeiT's; a digit counts the stages of those that widen, whose sizes are our choice, the width of each
that of a DeiT or half of it. None has weights of its own: `from_vit` takes a trained ViT's, `stitch` two.
"""

from typing import Any

from timm.models import generate_default_cfgs

from foveate.models.iret.model import IRET
from foveate.models.registering import register

NAMES: dict[str, dict[str, Any]] = {
    "iret_residual_tiny_patch16_224": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "iret_residual_small_patch16_224": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "iret_residual_base_patch16_224": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "iret_concat_small3_patch16_224": {
        "widening": "concat", "embed_dim": (96, 192, 384), "depth": 12, "num_heads": (3, 6, 12), "transitions": (3, 7),
    },
    "iret_concat_base3_patch16_224": {
        "widening": "concat", "embed_dim": (192, 384, 768), "depth": 12, "num_heads": (3, 6, 12), "transitions": (3, 7),
    },
    "iret_stitched_small2_patch16_224": {
        "widening": "stitched", "embed_dim": (192, 384), "depth": 12, "num_heads": (3, 6), "transitions": (3,),
    },
}  # fmt: skip

default_cfgs = generate_default_cfgs(
    {
        name: {
            "input_size": (3, 224, 224),
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": (),
            "classifier": "head",
        }
        for name in NAMES
    }
)

register(__name__, IRET, NAMES, "IRET-style: a reconstruction, without published weights.")

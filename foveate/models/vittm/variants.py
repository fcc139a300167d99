"""ViTTM's sizes in timm's registry: `timm.create_model("vittm_base_patch28_224", num_classes=10)`.

patch28: both streams at 28 pixels, as published for small and base. patch32_mem16: process tokens of 32 pixels, memory
tokens of 16, which the authors tried before. Tiny and large are theirs too, without published training.
"""

from timm.models import generate_default_cfgs

from foveate.models.registering import register
from foveate.models.vittm.model import ViTTM

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
}
PATCHES: dict[str, dict[str, int]] = {
    "patch28": {"patch_size": 28},
    "patch32_mem16": {"patch_size": 32, "memory_patch_size": 16},
}
NAMES = {f"vittm_{s}_{p}_224": size | patch for s, size in SIZES.items() for p, patch in PATCHES.items()}

default_cfgs = generate_default_cfgs(
    {
        name: {
            "input_size": (3, 224, 224),
            "interpolation": "bicubic",
            "crop_pct": 224 / 256,
            "first_conv": ("process_embed.proj", "memory_embed.proj"),
            "classifier": ("head", "process_head"),
        }
        for name in NAMES
    }
)


register(__name__, ViTTM, NAMES, "ViTTM: published without weights that could be tried here.")

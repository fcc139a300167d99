"""Segmenters in timm's registry: `timm.create_model("segmenter_vit_tiny_patch16_512", num_classes=11, img_size=336)`.

The number is the window's side in pixels, which `img_size` changes; all of a window's backbone is built for that size.
"""

from typing import Any

from timm.models import generate_default_cfgs

from foveate.models.registering import register
from foveate.models.segmenter.model import Segmenter

SIZES = ("tiny", "small", "base")
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "segmenter_vit_{}_patch16_512": ("vit_{}_patch16_224", {"img_size": 512}),
    "segmenter_vittm_{}_patch28_504": ("vittm_{}_patch28_224", {"img_size": 504}),
    # Its grids differ: the process stream alone is taken, and the last write has no reader.
    "segmenter_vittm_{}_patch32_mem16_512": ("vittm_{}_patch32_mem16_224", {"img_size": 512, "output": "process"}),
}
NAMES = {
    name.format(size): {"backbone": backbone.format(size)} | options
    for name, (backbone, options) in BACKBONES.items()
    for size in SIZES
}

default_cfgs = generate_default_cfgs(
    {
        name: {
            "input_size": (3, options["img_size"], options["img_size"]),
            "num_classes": 150,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": (),
            "classifier": (),
        }
        for name, options in NAMES.items()
    }
)


register(__name__, Segmenter, NAMES, "Segmenter: no published weights.")

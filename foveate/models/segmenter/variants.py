"""Segmenters in timm's registry: `timm.create_model("segmenter_vit_tiny_patch16_512", num_classes=11, img_size=336)`.

The number is the window's side in pixels, which `img_size` changes; all of a window's backbone is built for that size.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

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


def _entry(name: str) -> Any:
    def create(pretrained: bool = False, **kwargs: Any) -> Segmenter:
        options: dict[str, Any] = NAMES[name] | kwargs
        return build_model_with_cfg(Segmenter, name, pretrained, **options)

    create.__name__, create.__qualname__ = name, name
    create.__doc__ = f"Segmenter on {NAMES[name]['backbone']}; no published weights."
    return register_model(create)


for _name in NAMES:
    globals()[_name] = _entry(_name)

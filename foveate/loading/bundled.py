"""The classifier that ships with foveate: ten kinds of clothing, a tenth of a ViT-Ti's arithmetic."""

from importlib import resources

from torch import Tensor

from foveate.errors import InputError
from foveate.loading.weights import read_weights

BUNDLED = "clothing_vit"
BUNDLED_FILE = "clothing_vit.safetensors"
BUNDLED_KWARGS = {"img_size": 224, "patch_size": 16, "embed_dim": 128, "depth": 12, "num_heads": 4, "num_classes": 10}
BUNDLED_CLASSES = ("dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt", "t-shirt")
BUNDLED_CROP = 224 / 248


def bundled_state() -> dict[str, Tensor]:
    asset = resources.files("foveate") / "assets" / BUNDLED_FILE
    if not asset.is_file():
        raise InputError(
            f"the bundled weights {BUNDLED_FILE} are not part of this installation; name a model or install again"
        )
    with resources.as_file(asset) as path:
        return read_weights(path).state

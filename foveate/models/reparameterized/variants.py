"""One name in timm's registry for whatever was converted; its options say from what, and how.

>>> import timm
>>> vit = timm.create_model("reparameterized_vit", embed_dim=192, num_heads=3, attention="sigmoid")
"""

from timm.models import generate_default_cfgs

from foveate.models.registering import register
from foveate.models.reparameterized.model import ReparameterizedViT

NAME = "reparameterized_vit"
CONFIG = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}
default_cfgs = generate_default_cfgs({NAME: CONFIG})
register(__name__, ReparameterizedViT, {NAME: {}}, "A converted ViT: no published weights.")

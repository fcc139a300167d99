"""A ViT with other attention and linear layers. `model` says what it is, `variants` its name in timm's registry."""

from foveate.models.reparameterized import variants as variants
from foveate.models.reparameterized.attention import CoreAttention as CoreAttention
from foveate.models.reparameterized.model import ReparameterizedViT as ReparameterizedViT
from foveate.models.reparameterized.model import reparameterize as reparameterize

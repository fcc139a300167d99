"""Segmenter: masks from a ViT's or a ViTTM's patch tokens."""

from foveate.models.segmenter import variants as variants
from foveate.models.segmenter.model import MaskTransformer as MaskTransformer
from foveate.models.segmenter.model import Segmenter as Segmenter

"""Dense ViT: masks from a ViT's patch tokens by transposed convolutions."""

from foveate.models.dense import variants as variants
from foveate.models.dense.model import ConvDecoder as ConvDecoder
from foveate.models.dense.model import DenseViT as DenseViT

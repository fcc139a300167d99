"""A ViT's blocks, for models that are built around them."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.models.vision_transformer import Block
from torch import nn

LayerNorm: Any = partial(nn.LayerNorm, eps=1e-6)


def plain_blocks(
    dims: Sequence[int], heads: Sequence[int], *, mlp_ratio: float, init_values: float | None, drop_path_rate: float
) -> nn.ModuleList:
    """timm's plain blocks, of these widths and heads; stochastic depth rises linearly to `drop_path_rate`."""
    return nn.ModuleList(
        Block(
            dim, count, mlp_ratio, qkv_bias=True, init_values=init_values, norm_layer=LayerNorm,
            drop_path=drop_path_rate * i / max(1, len(dims) - 1),
        )
        for i, (dim, count) in enumerate(zip(dims, heads, strict=True))
    )  # fmt: skip

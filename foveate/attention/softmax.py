"""Softmax attention (Vaswani et al., 2017), by the fused kernel of whatever runs it. The one to compare with."""

from typing import final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from foveate.attention._base import CORES, Core


@final
@CORES.register("softmax")
class Softmax(Core):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, size: Tensor | None = None) -> Tensor:
        bias = None if size is None else size.log()[:, None, None].to(q.dtype)
        return scaled_dot_product_attention(q, k, v, attn_mask=bias)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, size: Tensor | None = None) -> Tensor:
        q, k, v = q.double(), k.double(), v.double()
        weight = torch.exp(torch.einsum("bhnd,bhmd->bhnm", q, k) / q.shape[-1] ** 0.5)
        if size is not None:
            weight = weight * size.double()[:, None, None]
        return torch.einsum("bhnm,bhmd->bhnd", weight / weight.sum(-1, keepdim=True), v)

    def rows(self, q: Tensor, k: Tensor, size: Tensor | None = None) -> Tensor:
        logits = (q @ k.mT).float() * q.shape[-1] ** -0.5
        return (logits if size is None else logits + size.float().log()[:, None, None]).softmax(-1)

    def terms(self, heads: int, width: int) -> tuple[int, int]:
        return 0, 2 * heads * width

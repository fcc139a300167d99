"""Sigmoid attention: every weight a gate of its own, without a sum over the row.

    out_i = sum_j sigmoid(q_i k_j / sqrt(d) + b) v_j        b = -log n

Ramapuram et al., "Theory, Analysis, and Best Practices for Sigmoid Self-Attention", ICLR 2025 (arXiv:2409.04431). With
b = -log n a row's weights sum to about one where scores are near zero, as at the start of training; n is the number of
patches that the tokens stand for, so that b follows when tokens are dropped. Queries and keys normalised over a head's
channels and a small LayerScale keep the norms small early in training, which its authors found to be what matters.

A weight here hangs on one score alone: nothing has to wait for a row's sum, and a key that is left out changes no other
weight.
"""

import math
from typing import final

import torch
from torch import Tensor

from foveate.attention._base import CORES, Core
from foveate.errors import InputError


@final
@CORES.register("sigmoid")
class Sigmoid(Core):
    def __init__(self, *, bias: float | None = None) -> None:
        """`bias`: b; None for -log n."""
        super().__init__()
        if bias is not None and not math.isfinite(bias):
            raise InputError(f"bias {bias}; allowed: a finite number, or None for -log n")
        self.bias = bias

    def forward(self, q: Tensor, k: Tensor, v: Tensor, size: Tensor | None = None) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.mT
        if size is None:
            return torch.sigmoid(scores + (-math.log(k.shape[-2]) if self.bias is None else self.bias)) @ v
        if self.bias is not None:
            weight = torch.sigmoid(scores + self.bias)
        else:
            weight = torch.sigmoid(scores - size.sum(1).log()[:, None, None, None].to(q.dtype))
        return weight @ (v * size[:, None, :, None].to(v.dtype))

    def reference(self, q: Tensor, k: Tensor, v: Tensor, size: Tensor | None = None) -> Tensor:
        q, k, v = q.double(), k.double(), v.double()
        count = torch.ones_like(k[:, 0, :, 0]) if size is None else size.double()
        b = -count.sum(1).log() if self.bias is None else torch.full_like(count[:, 0], self.bias)
        scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / q.shape[-1] ** 0.5 + b[:, None, None, None]
        return torch.einsum("bhnm,bm,bhmd->bhnd", 1 / (1 + torch.exp(-scores)), count, v)

    def rows(self, q: Tensor, k: Tensor, size: Tensor | None = None) -> Tensor:
        count = torch.full((len(k), k.shape[-2]), 1.0, device=k.device) if size is None else size.float()
        shift = -count.sum(1).log()[:, None, None, None] if self.bias is None else self.bias
        weight = torch.sigmoid((q @ k.mT).float() * q.shape[-1] ** -0.5 + shift) * count[:, None, None]
        return weight / weight.sum(-1, keepdim=True).clamp(min=1e-30)

    def terms(self, heads: int, width: int) -> tuple[int, int]:
        return 0, 2 * heads * width

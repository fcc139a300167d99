"""The values that flow between adapters and methods.

Shape letters, used everywhere:
    B batch   N tokens (prefix included)   P patch tokens   K patch tokens kept   C channels
    H heads   D head width   T tiles   L blocks   E width of a rotary embedding
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """A batch of tokens and what each one stands for."""

    x: Tensor  # [B N C]
    size: Tensor  # [B N], float32: how many of the image's patches a token stands for
    prefix: int  # leading class, distillation and register tokens, which no method touches
    source: Tensor | None = None  # [B P0], int64: patch token that holds each original patch, -1 if dropped
    rope: Tensor | None = None  # [B P E]: the rotary embedding of each patch token, where the host has one
    memory: Tensor | None = None  # [B M C]: the second stream of a host that has one; no method sees it

    @property
    def patches(self) -> int:
        """Patch tokens present: N - prefix."""
        return self.x.shape[1] - self.prefix


class Signals(NamedTuple):
    """What attention computed in the reducing block. A field is None unless the method declares it in `needs`."""

    keys: Tensor | None = None  # [B H N D], after k-norm, before any rotary embedding
    values: Tensor | None = None  # [B H N D]
    class_row: Tensor | None = None  # [B H N], attention of the class token to every token
    attention: Tensor | None = None  # [B H N N], every row a distribution
    depth: float = 0.0  # block index / number of blocks, a plain number: 0 first, below 1 last


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Pick tokens: x [B N C], index [B K] -> [B K C].

    Whole rows are copied: `torch.gather` would look up every element, which took five times as long in eager and in
    ONNX Runtime.
    """
    if x.shape[0] == 1:
        return x.index_select(1, index.flatten())
    first = torch.arange(x.shape[0], device=index.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (index + first).flatten()).unflatten(0, index.shape)

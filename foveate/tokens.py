"""The values that flow between adapters and methods.

Shape letters, used everywhere:
    B batch   N tokens (prefix included)   P patch tokens   K patch tokens kept   C channels
    H heads   D head width   T tiles   L blocks   E width of a rotary embedding
"""

from typing import NamedTuple

from torch import Tensor


class Tokens(NamedTuple):
    """A batch of tokens and what each one stands for."""

    x: Tensor  # [B N C]
    size: Tensor  # [B N], float32: how many of the image's patches a token stands for
    prefix: int  # leading class, distillation and register tokens, which no method touches
    source: Tensor | None = None  # [B P0], int64: patch token that holds each original patch, -1 if dropped
    rope: Tensor | None = None  # [B P E]: the rotary embedding of each patch token, where the host has one

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
    """Pick tokens: x [B N C], index [B K] -> [B K C]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

"""The contract of an attention variant: what queries, keys and values come to, between the projections of a block.

A variant is maths only; a host's projections and norms stay where they are. Abstract classes are never instantiated,
concrete ones never subclassed. Every variant has a slow `reference` in float64, written as its formula is printed.

Merged tokens: a token of size s stands for s patches, and what comes out is what s copies of it would have given
(`copies` says for which variants exactly).

Shape letters: B batch, H heads, N tokens, d channels of a head.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from foveate.registry import Registry


class Core(nn.Module, ABC):
    """Queries, keys and values [B H N d] -> [B H N d]. Hyper-parameters are keyword-only, stored under their names."""

    copies: ClassVar[bool] = True  # is a token of size s worth s copies of it, exactly?

    @classmethod
    def of(cls, heads: int, width: int, tokens: int, **options: object) -> "Core":
        """One for a block of so many heads, channels a head and tokens."""
        return cls(**options)

    @abstractmethod
    def forward(self, q: Tensor, k: Tensor, v: Tensor, size: Tensor | None = None) -> Tensor:
        """`size` [B N]: the patches that each token stands for; None where each stands for itself alone.

        What happens to one image does not depend on its batch mates.
        """

    @abstractmethod
    def reference(self, q: Tensor, k: Tensor, v: Tensor, size: Tensor | None = None) -> Tensor:
        """The same by its formula, in float64."""

    @abstractmethod
    def rows(self, q: Tensor, k: Tensor, size: Tensor | None = None) -> Tensor:
        """What queries [B H M d] take from every key [B H N d]: [B H M N] in float32, none below 0, rows of sum 1.

        What methods of token reduction read; `forward` need not compute it.
        """

    @abstractmethod
    def terms(self, heads: int, width: int) -> tuple[int, int]:
        """Multiply-accumulates a token and a pair of tokens, of all heads: of n tokens first * n + second * n^2."""

    def macs(self, tokens: int, heads: int, width: int) -> int:
        """Multiply-accumulates of one image in all heads."""
        once, pairs = self.terms(heads, width)
        return once * tokens + pairs * tokens * tokens

    def check_ready(self) -> None:
        """
        Raises:
            InputError: something that is fitted to data never was.
        """


CORES: Registry[Core] = Registry("attention")

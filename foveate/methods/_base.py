"""The contract a token-reduction method implements. Abstract classes are never instantiated, concrete ones never subclassed.

A method is maths only: it sees tokens and signals, never a model. It decides which patches stay and where the others go,
and lets `select`, `fuse` or `merge` below do the moving, so that sizes, source maps and rotary embeddings follow.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from foveate.registry import Registry
from foveate.tokens import Signals, Tokens, gather

Signal = Literal["keys", "values", "class_row", "attention"]


class Reducer(nn.Module, ABC):
    """Makes fewer tokens. Hyper-parameters are keyword-only and stored under their own names."""

    needs: ClassVar[frozenset[Signal]] = frozenset()  # what the reducing block has to hand over; all else is None
    proportional: bool = False  # does the paper weigh later attention by token size?
    max_drop: ClassVar[float] = 1.0  # largest share of the patch tokens one call can remove
    published: ClassVar[bool] = True  # False: our variant, kept out of "as published" tables

    @abstractmethod
    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        """Return `tokens` with exactly `keep` patch tokens (2 <= keep < P); the prefix is untouched and first.

        What happens to one image must not depend on its batch mates, and shapes may depend on `keep` only.
        """


class Scorer(Reducer):
    """Keeps the `keep` patch tokens with the highest score, in their original order; drops the rest."""

    @abstractmethod
    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        """Importance of every patch token: [B P]."""

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        return select(tokens, highest(self.score(tokens, signals), keep))


class Merger(Reducer):
    """Averages tokens weighted by size: the sum of `x * size` over the tokens never changes."""


def highest(score: Tensor, keep: int) -> Tensor:
    """Indices of the `keep` highest scores, ascending: [B P] -> [B keep]."""
    return score.topk(keep, dim=1).indices.sort(dim=1).values


def select(tokens: Tokens, kept: Tensor) -> Tokens:
    """Keep the prefix and the patch tokens `kept` [B K] (indices among the patches); drop the rest."""
    x, size, p, source, rope = tokens
    if source is not None:
        slot = torch.full((len(kept), tokens.patches + 1), -1, dtype=torch.long, device=kept.device)
        slot = slot.scatter(1, kept, torch.arange(kept.shape[1], device=kept.device).expand_as(kept))
        source = slot.gather(1, source.where(source >= 0, tokens.patches))
    return Tokens(
        torch.cat([x[:, :p], gather(x[:, p:], kept)], dim=1),
        torch.cat([size[:, :p], size[:, p:].gather(1, kept)], dim=1),
        p,
        source,
        None if rope is None else gather(rope, kept),
    )


def merge(tokens: Tokens, into: Tensor, anchor: Tensor, weight: Tensor, *, normalise: bool = True) -> Tokens:
    """Every output patch token becomes a weighted mean of the patches sent to it.

    Args:
        into: [B P] int64, the output slot (0 .. K-1) of every patch token; -1 drops it.
        anchor: [B K] int64, the patch whose rotary position a slot takes.
        weight: [B P], non-negative weight of every patch token within its slot.
        normalise: False leaves the weights as they are (EViT's fused token).

    A one-hot matrix product: every runtime has a fast one, which cannot be said of scatter with a reduction.
    """
    x, size, p, source, rope = tokens
    keep = anchor.shape[1]
    member = into[:, None] == torch.arange(keep, device=into.device)[None, :, None]  # [B K P]
    share = member * weight.float()[:, None]
    if normalise:
        # A slot of one gets the share 1 exactly, so what was not merged comes out bit for bit.
        share = share / share.sum(-1, keepdim=True)
    mixed = share.to(x.dtype) @ x[:, p:]
    total = (member * size[:, None, p:]).sum(-1)
    if source is not None:
        padded = torch.cat([into, torch.full_like(into[:, :1], -1)], dim=1)
        source = padded.gather(1, source.where(source >= 0, tokens.patches))
    return Tokens(
        torch.cat([x[:, :p], mixed], dim=1),
        torch.cat([size[:, :p], total], dim=1),
        p,
        source,
        None if rope is None else gather(rope, anchor),
    )


def fuse(tokens: Tokens, kept: Tensor, weight: Tensor, *, normalise: bool = True) -> Tokens:
    """Keep the patches `kept` [B K-1], ascending, and append one token: the weighted mean (or sum) of all others.

    Args:
        weight: [B P], weight of every patch token in the fused one; those of kept patches are not used.
        normalise: False gives the weighted sum, as EViT's.
    """
    x, size, p, source, rope = tokens
    held = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device).scatter(1, kept, True)  # [B P]
    share = weight.float().masked_fill(held, 0.0)
    best = share.argmax(1, keepdim=True)  # whose rotary position the fused token takes
    if normalise:
        share = share / share.sum(1, keepdim=True)
    fused = share.to(x.dtype)[:, None] @ x[:, p:]
    rest = size[:, p:].masked_fill(held, 0.0).sum(1, keepdim=True)
    chosen = select(tokens, kept)
    if source is not None and chosen.source is not None:
        source = chosen.source.where((chosen.source >= 0) | (source < 0), kept.shape[1])
    return Tokens(
        torch.cat([chosen.x, fused], dim=1),
        torch.cat([chosen.size, rest], dim=1),
        p,
        source,
        None if rope is None or chosen.rope is None else torch.cat([chosen.rope, gather(rope, best)], dim=1),
    )


METHODS: Registry[Reducer] = Registry("method")

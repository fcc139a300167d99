"""POMT: keep the best patches and the mean of all others (Eliopoulos et al., WACV 2025, arXiv:2407.05941).

A patch's score has two parts. Attention it receives: the largest over the heads, summed over the patches that attend,
divided by the largest such sum. Its value: the largest over the heads, summed over the channels, softmax over all
tokens. No class token is needed. `keep` - 1 patches stay and one token, the plain mean of all others, is appended.

`pomt_published` divides by the largest sum in the *batch*, as the public code does, so the patches an image keeps
depend on its batch mates. `pomt` divides by the image's own and is what we use; alone, the two are the same. The
public code's other defect, two tokens more than planned, is one of its planner: here `keep` is what comes out.
"""

from abc import abstractmethod
from typing import final

import torch
from torch import Tensor

from foveate.methods._base import METHODS, Reducer, fuse
from foveate.tokens import Signals, Tokens


class _POMT(Reducer):
    needs = frozenset({"attention", "values"})

    @abstractmethod
    def peak(self, received: Tensor) -> Tensor:
        """What received attention [B P] is divided by."""

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        """Importance of every patch token: [B P] float32."""
        assert signals.attention is not None and signals.values is not None
        p = tokens.prefix
        received = signals.attention.amax(1)[:, p:].sum(1, dtype=torch.float32)[:, p:]
        value = signals.values.amax(1).sum(-1, dtype=torch.float32).softmax(-1)
        return received / self.peak(received) + value[:, p:]

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        score = self.score(tokens, signals)
        return fuse(tokens, score, keep, torch.ones_like(score))


@final
@METHODS.register("pomt")
class POMT(_POMT):
    published = False  # normalised by image

    def peak(self, received: Tensor) -> Tensor:
        return received.amax(1, keepdim=True)


@final
@METHODS.register("pomt_published")
class POMTPublished(_POMT):
    per_image = False  # the law it breaks is the point of it

    def peak(self, received: Tensor) -> Tensor:
        return received.max()

"""EViT: keep what the class token attends to most, fuse the rest into one (Liang et al., ICLR 2022, arXiv:2202.07800).

The fused token is the sum of the others weighted by that attention, which is not made to sum to 1: it comes out
shorter than a token. `normalise=True` makes it a mean, which is ours and not the paper's. `keep` counts the fused
token.
"""

from typing import final

import torch

from foveate.methods._base import METHODS, Reducer, fuse
from foveate.tokens import Signals, Tokens


@final
@METHODS.register("evit")
class EViT(Reducer):
    needs = frozenset({"class_row"})

    def __init__(self, *, normalise: bool = False) -> None:
        super().__init__()
        self.normalise = normalise

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        assert signals.class_row is not None
        score = signals.class_row.mean(1, dtype=torch.float32)[:, tokens.prefix :]
        return fuse(tokens, score, keep, score, normalise=self.normalise)

"""Uniform: keep evenly spaced patches, whatever is in them. A baseline that needs nothing and costs one gather."""

from typing import final

import torch

from foveate.methods._base import METHODS, Reducer, select
from foveate.tokens import Signals, Tokens


@final
@METHODS.register("uniform")
class Uniform(Reducer):
    published = False  # nobody's method

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        kept = [
            (2 * i + 1) * tokens.patches // (2 * keep) for i in range(keep)
        ]  # the middle of each of `keep` equal parts
        return select(tokens, torch.tensor(kept, device=tokens.x.device).expand(tokens.x.shape[0], -1))

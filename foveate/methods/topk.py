"""Top-K: keep the patches the class token attends to most, drop the rest.

The baseline of Haurum et al. ("Which Tokens to Use?", ICCV-W 2023, arXiv:2308.04657): EViT without its fused token.
"""

from typing import final

import torch
from torch import Tensor

from foveate.methods._base import METHODS, Scorer
from foveate.tokens import Signals, Tokens


@final
@METHODS.register("topk")
class TopK(Scorer):
    needs = frozenset({"class_row"})

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        assert signals.class_row is not None
        return signals.class_row.mean(1, dtype=torch.float32)[:, tokens.prefix :]

"""DART: a few pivots, and what is least like them.

Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More", EMNLP 2025.
There it runs within the language model, after its second block; this is its rule before the language model, with the
encoder's keys and features: the cells with the longest keys (sum of absolute values) are pivots, and each adds, in
turn, the cells whose features are least similar to its own.
"""

from typing import final

import torch
from torch import Tensor

from foveate.budgets._base import BUDGETS, BudgetMethod, Sight, highest, unit

PIVOTS = 8  # four of the picture and four of the text, there


@final
@BUDGETS.register("dart")
class DART(BudgetMethod):
    needs = frozenset({"keys", "features"})

    def order(self, sight: Sight, tokens: int) -> Tensor:
        assert sight.keys is not None and sight.features is not None
        cells = torch.arange(len(sight.keys), device=sight.keys.device)
        pivots = highest(sight.keys.float().abs().sum(1), cells)[: min(PIVOTS, tokens)]
        vectors = unit(sight.features)
        alike = vectors[pivots] @ vectors.T
        alike[:, pivots] = torch.inf
        ranked = alike.sort(dim=1, stable=True).indices.T.flatten().tolist()  # by turns: one of every pivot
        taken = dict.fromkeys(pivots.tolist())
        for cell in ranked:
            if len(taken) >= min(tokens, len(cells)):
                break
            taken.setdefault(cell)
        return torch.tensor(list(taken), device=cells.device)

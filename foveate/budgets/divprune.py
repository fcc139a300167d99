"""DivPrune: as unlike each other as can be, whatever anything attends to.

Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", CVPR 2025, from the paper.
The first cell is the one whose nearest neighbour is farthest away; each further one is the farthest from those that
stay. Distance is 1 - cosine of what the language model is given; the cells of all parts compete.
"""

from typing import final

import torch
from torch import Tensor

from foveate.budgets._base import BUDGETS, BudgetMethod, Sight, unit


@final
@BUDGETS.register("divprune")
class DivPrune(BudgetMethod):
    needs = frozenset({"projected"})

    def order(self, sight: Sight, tokens: int) -> Tensor:
        assert sight.projected is not None
        vectors = unit(sight.projected)
        distance = 1 - vectors @ vectors.T
        distance.fill_diagonal_(torch.inf)
        taken = [distance.amin(1).argmax()]
        distance.fill_diagonal_(0)
        nearest = distance[taken[0]].clone()
        for _ in range(min(tokens, len(vectors)) - 1):
            nearest[taken[-1]] = -torch.inf
            taken.append(nearest.argmax())
            nearest = torch.minimum(nearest, distance[taken[-1]])
        return torch.stack(taken)

"""Random: keep cells by lot, the same for every picture of a size. The baseline that many methods lose against.

UniPruneBench (arXiv 2511.02650) found six of eight published methods below it at two thirds and more removed.
"""

from typing import final

import torch
from torch import Tensor

from foveate.budgets._base import BUDGETS, BudgetMethod, Positions, Sight, device_of
from foveate.budgets.count import Newlines


@final
@BUDGETS.register("random")
class Random(BudgetMethod):
    published = False  # nobody's method

    def __init__(self, *, seed: int = 0, newlines: Newlines | None = None, positions: Positions | None = None) -> None:
        super().__init__(newlines=newlines, positions=positions)
        self.seed = seed

    def order(self, sight: Sight, tokens: int) -> Tensor:
        lot = torch.Generator().manual_seed(self.seed)
        return torch.randperm(sight.tiling.cells, generator=lot).to(device_of(sight))

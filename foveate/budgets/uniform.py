"""Uniform: cells spread evenly over the whole view and over the tiles, whatever the picture shows."""

from collections.abc import Sequence
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from foveate.budgets._base import BUDGETS, Allocator, Sight
from foveate.budgets.allocation import waterfill


@final
@BUDGETS.register("uniform")
class Uniform(Allocator):
    published = False  # nobody's method

    def allocate(self, sight: Sight, tokens: int) -> Sequence[int]:
        rooms = sight.tiling.capacities
        return waterfill(tokens, [float(room) for room in rooms], rooms)

    def rank(self, sight: Sight, cells: Tensor, tokens: int) -> Tensor:
        places = [sight.tiling.place[cell] for cell in cells.tolist()]
        top, left = min(r for r, _ in places), min(c for _, c in places)
        at = {(r - top, c - left): n for n, (r, c) in enumerate(places)}
        height, width = 1 + max(r for r, _ in at), 1 + max(c for _, c in at)
        order = [at[place] for place in spread(height, width)]
        return cells[torch.tensor(order, device=cells.device)]


@lru_cache(maxsize=256)
def spread(height: int, width: int) -> tuple[tuple[int, int], ...]:
    """All places of a grid in an order of which any beginning covers it evenly.

    Roberts' R2 sequence, the steps of which are powers of the root of x^3 = x + 1: its point n falls into the place
    that is taken n-th, and what has been taken is passed over.
    """
    root = 1.3247179572447460
    step = 1 / root, 1 / root**2
    taken: dict[tuple[int, int], None] = {}
    n = 0
    while len(taken) < height * width and n < 64 * height * width:
        n += 1
        taken.setdefault((int((0.5 + step[0] * n) % 1 * height), int((0.5 + step[1] * n) % 1 * width)))
    for r in range(height):
        for c in range(width):
            taken.setdefault((r, c))
    return tuple(taken)

"""Where content is: the whole view's early attention, summed over what of it each tile covers (HiRED's equation 1)."""

import math

import torch
from torch import Tensor

from foveate.budgets._base import Sight, evenly
from foveate.budgets.allocation import waterfill
from foveate.budgets.tiling import Tiling, cover
from foveate.errors import InputError


def checked_alpha(alpha: float) -> float:
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha {alpha}; allowed: 0 to 1, the whole view's share of the budget")
    return alpha


def shared_by_content(sight: Sight, tokens: int, alpha: float, *, paid: bool = True) -> list[int]:
    """The whole view gets `alpha` of the tokens, tiles the rest by their content; nobody more than it has.

    Without a whole view nothing says where content is, and parts share evenly.

    Args:
        paid: newlines are paid from the tiles' share.
    """
    tiling = sight.tiling
    if not tiling.tiles or not tiling.viewed:
        return evenly(tiling, tokens)
    room = sum(tiling.capacities[1:]) + (tiling.lines if paid else 0)
    whole = min(math.floor(alpha * tokens), tiling.capacities[0])
    whole = min(max(whole, tokens - room), tiling.capacities[0])
    return [whole, *waterfill(tokens - whole, content(tiling, sight.early), tiling.capacities[1:])]


def content(tiling: Tiling, early: Tensor | None) -> list[float]:
    """Equation 1, padding-aware: the attention on those cells of the whole view that a tile covers, for every tile."""
    assert early is not None
    rows, columns = tiling.whole
    grid = early.detach().double().reshape(rows, columns)
    grid = torch.where(grid.isfinite(), grid, 0.0)
    down = grid.new_tensor([cover(span, rows) for span in tiling.rows])
    across = grid.new_tensor([cover(span, columns) for span in tiling.columns])
    return (down @ grid @ across.T).flatten().tolist()

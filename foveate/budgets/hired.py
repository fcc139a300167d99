"""HiRED: half of the budget for the whole view, the rest for the tiles that early attention says content is in.

Arif et al., "HiRED: Attention-Guided Token Dropping for Efficient Inference of High-Resolution Vision-Language
Models", AAAI 2025 (arXiv 2408.10945v3). The class token's attention in the first block, summed over the heads and
over the cells of the whole view that cover a tile, shares the tiles' tokens out (its equation 1); its attention in
the block whose output the projector takes says which cells stay (equation 2).

Three of it are registered. `hired` is the one to use and differs from the paper: what of the whole view a tile covers
is exact where the picture is padded, a tile gets no more than it has cells, rounding loses nothing, ties are settled
by place, newlines are counted. `hired-paper` floors, as printed. `hired-official` is the released code at commit
502d6dd: cells that are among the most attended are counted instead of weighed, bands of rows stand for tiles, cells of
padding are chosen and then lost, newlines go. (That code also swaps the two sides of oblong grids when it packs
features; that is not reproduced.)
"""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from foveate.budgets._base import BUDGETS, Allocator, BudgetMethod, Positions, Sight, cells_of, evenly, highest
from foveate.budgets.content import checked_alpha, content, shared_by_content
from foveate.budgets.count import Newlines
from foveate.budgets.tiling import Tiling


@final
@BUDGETS.register("hired")
class HiRED(Allocator):
    needs = frozenset({"early", "late"})

    def __init__(
        self, *, alpha: float = 0.5, newlines: Newlines | None = None, positions: Positions | None = None
    ) -> None:
        """`alpha`: the share of the whole view where there are tiles, 0 to 1."""
        super().__init__(newlines=newlines, positions=positions)
        self.alpha = checked_alpha(alpha)

    def allocate(self, sight: Sight, tokens: int) -> Sequence[int]:
        return shared_by_content(sight, tokens, self.alpha, paid=self.newlines != "none")

    def rank(self, sight: Sight, cells: Tensor, tokens: int) -> Tensor:
        assert sight.late is not None
        return highest(sight.late[cells], cells)


@final
@BUDGETS.register("hired-paper")
class Paper(Allocator):
    """HiRED as printed: shares are floored, and what that leaves is lost."""

    needs = frozenset({"early", "late"})
    exact = False
    newlines = "none"

    def __init__(self, *, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = checked_alpha(alpha)

    def allocate(self, sight: Sight, tokens: int) -> Sequence[int]:
        tiling = sight.tiling
        if not tiling.tiles or not tiling.viewed:
            return evenly(tiling, tokens)
        whole = math.floor(self.alpha * tokens)
        shares = content(tiling, sight.early)
        return [min(whole, tiling.capacities[0]), *floored(tokens - whole, shares, tiling.capacities[1:])]

    def rank(self, sight: Sight, cells: Tensor, tokens: int) -> Tensor:
        assert sight.late is not None
        return highest(sight.late[cells], cells)


@final
@BUDGETS.register("hired-official")
class Official(BudgetMethod):
    """HiRED's released code at commit 502d6dd, with what it does otherwise than the paper."""

    needs = frozenset({"early", "padded"})
    exact = False
    newlines = "none"

    def __init__(self, *, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = checked_alpha(alpha)

    def order(self, sight: Sight, tokens: int) -> Tensor:
        tiling, padded = sight.tiling, sight.padded
        assert padded is not None
        if not tiling.tiles or not tiling.viewed:
            return highest(padded.flatten(), torch.arange(tiling.cells, device=padded.device))
        side = tiling.whole[0] * tiling.whole[1]
        whole = min(int(self.alpha * tokens), side)
        left = min(tokens - whole, tiling.tiles * side)
        counts = counted(sight.early, int(side * (1 - self.alpha)), tiling, bands=True)
        given = [whole, *floored(left, counts, [side] * tiling.tiles)]
        real = _places_in_tiles(tiling)
        kept = [
            torch.tensor([real[p][i] for i in highest(score, torch.arange(side))[:n].tolist() if i in real[p]])
            for p, (score, n) in enumerate(zip(padded.cpu(), given, strict=True))
        ]
        return torch.cat([k.long() for k in kept]).to(padded.device)


def counted(early: Tensor | None, top: int, tiling: Tiling, *, bands: bool) -> list[float]:
    """How many of the `top` most attended cells of the whole view lie in each tile, or in each band of rows."""
    assert early is not None
    among = torch.zeros(early.numel(), dtype=torch.float64, device=early.device)
    among[highest(early.flatten(), torch.arange(early.numel(), device=early.device))[:top]] = 1.0
    if bands:
        return [float(band.sum()) for band in among.tensor_split(tiling.tiles)]
    return content(tiling, among)


def floored(tokens: int, shares: Sequence[float], capacities: Sequence[int]) -> list[int]:
    """Shares of `tokens`, each rounded down and bounded by its capacity; what that leaves is lost."""
    total = math.fsum(shares)
    if not total > 0:
        return [min(tokens // len(shares), room) for room in capacities]
    return [min(int(tokens * share / total), room) for share, room in zip(shares, capacities, strict=True)]


def _places_in_tiles(tiling: Tiling) -> list[dict[int, int]]:
    """For every part: which cell is at a place of the tile with its padding, without those of padding."""
    rows, columns = tiling.whole
    top, _, left, _ = tiling.box
    found: list[dict[int, int]] = []
    for part, cells in enumerate(cells_of(tiling)):
        places = (tiling.place[cell] for cell in cells.tolist())
        if part == 0:
            found.append({r * columns + c: cell for (r, c), cell in zip(places, cells.tolist(), strict=True)})
        else:
            found.append(
                {
                    (r + top) % rows * columns + (c + left) % columns: cell
                    for (r, c), cell in zip(places, cells.tolist(), strict=True)
                }
            )
    return found

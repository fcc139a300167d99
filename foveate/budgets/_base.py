"""The contract of a token budget's method. Abstract classes are never instantiated, concrete ones never subclassed.

A method is maths only: it sees what an encoder attended to, never a model. It shares a budget out among the parts of
a picture (`allocate`) and puts the cells in the order in which it would keep them (`rank`); newlines, exact totals
and the order of the sequence are the same for all and stand here.

Shape letters: n cells of a picture, k parts, K tokens kept (newlines included), M cells kept, D channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from foveate.budgets.allocation import waterfill
from foveate.budgets.count import NEWLINES, Budget, Newlines, count
from foveate.budgets.tiling import Tiling
from foveate.errors import InputError
from foveate.registry import Registry

Signal = Literal["early", "late", "keys", "features", "projected", "relevance", "padded"]
Positions = Literal["compact", "original"]
POSITIONS = ("compact", "original")

DROPPED = -1


class Sight(NamedTuple):
    """What an encoder made of one picture. A field is None unless a method declares it in `needs`.

    `early` covers the whole view alone and only where the picture has tiles: there is nothing else to allocate by.
    """

    tiling: Tiling
    early: Tensor | None = None  # [rows x columns of the whole view], attention received in the first block
    late: Tensor | None = None  # [n], attention each cell received in the block that the features come from
    keys: Tensor | None = None  # [n D], that block's keys, averaged over heads
    features: Tensor | None = None  # [n D], what the projector is given
    projected: Tensor | None = None  # [n D], what the language model is given
    relevance: Tensor | None = None  # [n], likeness of a cell and the prompt, where a text tower is at hand
    padded: Tensor | None = None  # [k cells of a tile], `late` of every cell, padding included, as released code ranks


@dataclass(frozen=True, eq=False)
class Kept:
    """Which tokens of a picture stay.

    Args:
        tiling: all of its tokens.
        rows: [K] int64, ascending places in the packed sequence, newlines included.
        cells: [M] int64, the cells among them, ascending.
        into: [n] int64, the place in `cells` that each cell goes to, -1 where it is dropped; None where nothing
            is merged.
        added: what is merged into a cell is added to it as a mean of its own, instead of being averaged with it.
    """

    tiling: Tiling
    rows: Tensor
    cells: Tensor
    into: Tensor | None = None
    added: bool = False

    @property
    def per_part(self) -> tuple[int, ...]:
        """Cells kept of every part."""
        part = torch.tensor(self.tiling.part)[self.cells.cpu()]
        return tuple(torch.bincount(part, minlength=len(self.tiling.capacities)).tolist())

    def pick(self, features: Tensor) -> Tensor:
        """The features of the cells that stay, with what is merged into them: [n D] -> [M D]."""
        kept = features.index_select(0, self.cells)
        if self.into is None:
            return kept
        moved = self.into.clone()
        moved[self.cells] = DROPPED
        source = (moved >= 0).nonzero().squeeze(1)
        share = features.new_zeros(len(self.cells), len(source), dtype=torch.float32)
        share[moved[source], torch.arange(len(source), device=share.device)] = 1.0
        total = share.sum(1, keepdim=True)
        if self.added:
            mean = (share / total.clamp(min=1)) @ features[source].float()
            return (kept.float() + mean).to(features.dtype)
        return ((kept.float() + share @ features[source].float()) / (total + 1)).to(features.dtype)


class BudgetMethod(ABC):
    """Keeps some tokens of a picture. Hyper-parameters are keyword-only and stored under their own names."""

    needs: ClassVar[frozenset[Signal]] = frozenset()
    exact: ClassVar[bool] = True  # False: the released code's or the paper's own loss of tokens, kept as a preset
    published: ClassVar[bool] = True  # False: nobody's method, or ours
    newlines: Newlines = "rows"
    positions: Positions = "compact"

    def __init__(self, *, newlines: Newlines | None = None, positions: Positions | None = None) -> None:
        self.newlines = newlines if newlines is not None else type(self).newlines
        self.positions = positions if positions is not None else type(self).positions
        if self.newlines not in NEWLINES:
            raise InputError(f"newlines {self.newlines!r}; allowed: {', '.join(NEWLINES)}")
        if self.positions not in POSITIONS:
            raise InputError(f"positions {self.positions!r}; allowed: {', '.join(POSITIONS)}")

    def count(self, tiling: Tiling, budget: float | int | Budget) -> int:
        """Tokens that stay of a picture, newlines included: known before any attention.

        Raises:
            InputError: a method that loses tokens on its way has no such number.
        """
        if not self.exact and Budget.parse(budget).of(tiling) < tiling.tokens:
            raise InputError(
                f"{BUDGETS.name_of(type(self))} loses tokens that depend on the picture: no count from its size alone"
            )
        return count(tiling, budget, newlines=self.newlines)

    def keep(self, sight: Sight, budget: float | int | Budget) -> Kept:
        """Which tokens stay: exactly `count` of them.

        What happens to one picture depends on nothing but that picture.
        """
        tiling = sight.tiling
        tokens = count(tiling, budget, newlines=self.newlines)
        if tokens >= tiling.tokens:
            return everything(tiling, device_of(sight))
        order = self.order(sight, tokens)
        cells, lines = within(order.cpu(), tiling, tokens, self.newlines)
        return self.merged(_kept(tiling, cells, lines, order.device), sight)

    @abstractmethod
    def order(self, sight: Sight, tokens: int) -> Tensor:
        """Cells in the order in which they are kept, at least min(tokens, n) of them: [M] int64."""

    def merged(self, kept: Kept, sight: Sight) -> Kept:
        """Say where the others go, where a method merges them."""
        return kept


class Allocator(BudgetMethod):
    """Shares a budget out among the parts and ranks the cells of each by themselves."""

    @abstractmethod
    def allocate(self, sight: Sight, tokens: int) -> Sequence[int]:
        """Tokens for every part, at most its cells."""

    @abstractmethod
    def rank(self, sight: Sight, cells: Tensor, tokens: int) -> Tensor:
        """`tokens` or more of `cells` [m] (the cells of one part), the best first."""

    def order(self, sight: Sight, tokens: int) -> Tensor:
        shared = self.allocate(sight, tokens)
        device = device_of(sight)
        ranked = [
            self.rank(sight, cells.to(device), n)[:n]
            for cells, n in zip(cells_of(sight.tiling), shared, strict=True)
            if n
        ]
        return interleave(ranked, whole_first=sight.tiling.viewed and bool(shared[0]))


def cells_of(tiling: Tiling) -> list[Tensor]:
    """The cells of every part: k tensors [m] int64."""
    part = torch.tensor(tiling.part)
    return [(part == p).nonzero().squeeze(1) for p in range(len(tiling.capacities))]


def evenly(tiling: Tiling, tokens: int) -> list[int]:
    """The same number for every part, as far as its cells reach."""
    return waterfill(tokens, [1.0] * len(tiling.capacities), tiling.capacities)


def highest(score: Tensor, cells: Tensor) -> Tensor:
    """`cells` [m] by falling `score` [m], of equal ones the first; what is no number comes last."""
    score = torch.nan_to_num(score.float(), nan=-torch.inf, posinf=torch.finfo(torch.float32).max)
    return cells[score.sort(descending=True, stable=True).indices]


def interleave(ranked: Sequence[Tensor], *, whole_first: bool) -> Tensor:
    """One order of several, so that any beginning of it has the parts in the proportion of their lengths.

    Args:
        ranked: the cells of each part, the best first.
        whole_first: the first of them goes before all others: newlines are paid by the tiles, which have them.
    """
    head = list(ranked[:1]) if whole_first else []
    tail = ranked[1:] if whole_first else ranked
    if not tail:
        return torch.cat(head)
    when = torch.cat([(torch.arange(len(part), dtype=torch.float64) + 0.5) / len(part) for part in tail])
    order = when.sort(stable=True).indices
    return torch.cat([*head, torch.cat(list(tail))[order.to(tail[0].device)]])


def within(order: Tensor, tiling: Tiling, tokens: int, newlines: Newlines) -> tuple[Tensor, Tensor]:
    """As many cells from the beginning of `order` as fit into `tokens` together with their newlines.

    A cell that opens a line costs two tokens. One token may be left over that cannot pay for that: it goes to the
    next cell whose line is open, and where none is, to the next cell without a newline.

    Returns:
        cells [M] and lines [L], both ascending, M + L == tokens.
    """
    line = torch.tensor(tiling.line)
    if newlines == "none" or not tiling.lines:
        return order[:tokens].sort().values, order.new_empty(0)
    if newlines == "all":
        return order[: tokens - tiling.lines].sort().values, torch.arange(tiling.lines)
    of = line[order]
    opens = (of >= 0) & _first_seen(of, tiling.lines)
    cost = (1 + opens.long()).cumsum(0)
    fit = int((cost <= tokens).sum())
    cells, lines = order[:fit], of[:fit][opens[:fit]]
    if fit < len(order) and int(cost[fit - 1] if fit else 0) < tokens:
        rest, their = order[fit:], of[fit:]
        open_lines = torch.zeros(tiling.lines + 1, dtype=torch.bool)
        open_lines[lines] = True
        open_lines[-1] = True  # of cells without a line
        free = open_lines[their].nonzero()
        cells = torch.cat([cells, rest[int(free[0]) if len(free) else 0].unsqueeze(0)])
    return cells.sort().values, lines.sort().values


def everything(tiling: Tiling, device: torch.device) -> Kept:
    """All tokens of a picture, as they are."""
    return Kept(tiling, torch.arange(tiling.tokens, device=device), torch.arange(tiling.cells, device=device))


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1, in float32: [m D]."""
    return normalize(x.float(), dim=-1)


def _kept(tiling: Tiling, cells: Tensor, lines: Tensor, device: torch.device) -> Kept:
    rows = torch.tensor(tiling.row)[cells]
    if len(lines):
        rows = torch.cat([rows, torch.tensor(tiling.newline_row)[lines]]).sort().values
    return Kept(tiling, rows.to(device), cells.to(device))


def _first_seen(values: Tensor, kinds: int) -> Tensor:
    """Where each value stands for the first time: [m] int64 -> [m] bool."""
    place = torch.arange(len(values))
    first = torch.full((kinds + 1,), len(values)).scatter_reduce(0, values.where(values >= 0, kinds), place, "amin")
    return first[values.where(values >= 0, kinds)] == place


def device_of(sight: Sight) -> torch.device:
    """Where a picture's signals are."""
    return next((x.device for x in sight[1:] if x is not None), torch.device("cpu"))


BUDGETS: Registry[BudgetMethod] = Registry("budget")

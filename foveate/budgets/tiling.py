"""How a picture becomes tokens: which of them are of the whole view, which of its tiles, and where rows end.

A language model that sees gets a picture as a whole view, as tiles cut from a larger copy of it, or as both. Side by
side the tiles make the mosaic, of which padding is cut away. All of it follows from the picture's size: plain
integers, no torch. Vocabulary of the budgets:

    cell    a token that stands for a piece of the picture
    part    the whole view (part 0 where there is one) or one tile, tiles in raster order
    line    what a newline token ends: a row of the mosaic, or all of a whole view that stands alone
    row     a place in the sequence that the model packs a picture into: a cell or a newline
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

from foveate.errors import InputError

Span = tuple[float, float]  # from, to: shares of the picture's height or width


@dataclass(frozen=True)
class Tiling:
    """The tokens of one picture.

    Args:
        whole: rows and columns of the whole view; (0, 0) where a model has none.
        tile: rows and columns of one tile, padding included.
        down: for every row of the mosaic, the row of tiles that it lies in; empty without tiles.
        across: for every column of the mosaic, the column of tiles.
        rows: the part of the picture's height that each row of tiles covers.
        columns: the part of its width that each column of tiles covers.
        box: top, bottom, left and right of what is no padding on the full mosaic; the mosaic is smaller than that
            where a host interpolates it.
        newlines: does a newline token end every line?
        order: "mosaic" where the sequence goes through the rows of the mosaic, "tiles" where it goes tile by tile.
        whole_last: the whole view follows the tiles, instead of going before them.
    """

    whole: tuple[int, int]
    tile: tuple[int, int] = (0, 0)
    down: tuple[int, ...] = ()
    across: tuple[int, ...] = ()
    rows: tuple[Span, ...] = ()
    columns: tuple[Span, ...] = ()
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    newlines: bool = False
    order: Literal["mosaic", "tiles"] = "mosaic"
    whole_last: bool = False

    def __post_init__(self) -> None:
        if not self.cells:
            raise InputError(
                f"a picture of no tokens: whole view {self.whole}, mosaic {len(self.down)}x{len(self.across)}"
            )

    @property
    def tiles(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def viewed(self) -> bool:
        """Is there a whole view?"""
        return self.whole[0] > 0

    @cached_property
    def capacities(self) -> tuple[int, ...]:
        """Cells of every part."""
        down = [self.down.count(r) for r in range(len(self.rows))]
        across = [self.across.count(c) for c in range(len(self.columns))]
        whole = (self.whole[0] * self.whole[1],) if self.viewed else ()
        return whole + tuple(h * w for h in down for w in across)

    @property
    def cells(self) -> int:
        return self.whole[0] * self.whole[1] + len(self.down) * len(self.across)

    @property
    def lines(self) -> int:
        """Newline tokens."""
        return (len(self.down) or 1) if self.newlines else 0

    @property
    def tokens(self) -> int:
        """What the model puts into a prompt: cells and newlines."""
        return self.cells + self.lines

    @property
    def nominal(self) -> int:
        """Cells with all padding, which is what papers take a share of: (k + 1) x 576 for LLaVA-NeXT."""
        return self.whole[0] * self.whole[1] + self.tiles * self.tile[0] * self.tile[1]

    @cached_property
    def part(self) -> tuple[int, ...]:
        """The part of every cell, cells in the order of the sequence."""
        return tuple(p for p, _, _ in self._places)

    @cached_property
    def place(self) -> tuple[tuple[int, int], ...]:
        """Row and column of every cell in the whole view or in the mosaic."""
        return tuple((r, c) for _, r, c in self._places)

    @cached_property
    def line(self) -> tuple[int, ...]:
        """The line of every cell, -1 where no newline ends it."""
        if not self.newlines:
            return (-1,) * self.cells
        if not self.tiles:
            return (0,) * self.cells
        return tuple(-1 if self.viewed and p == 0 else r for p, r, _ in self._places)

    @cached_property
    def row(self) -> tuple[int, ...]:
        """The place of every cell in the packed sequence; what lies between are newlines."""
        return tuple(n for n, cell in enumerate(self._sequence) if cell >= 0)

    @cached_property
    def newline_row(self) -> tuple[int, ...]:
        """The place of every line's newline in the packed sequence."""
        return tuple(n for n, cell in enumerate(self._sequence) if cell < 0)

    @cached_property
    def _places(self) -> list[tuple[int, int, int]]:
        first, columns = int(self.viewed), len(self.columns)
        whole = [(0, r, c) for r in range(self.whole[0]) for c in range(self.whole[1])]
        mosaic = [
            (first + tile_row * columns + tile_column, r, c)
            for r, tile_row in enumerate(self.down)
            for c, tile_column in enumerate(self.across)
        ]
        if self.order == "tiles":
            mosaic.sort(key=lambda cell: cell[0])
        return mosaic + whole if self.whole_last else whole + mosaic

    @cached_property
    def _sequence(self) -> list[int]:
        """Cells as they are packed, -1 for a newline."""
        packed: list[int] = []
        for n, line in enumerate(self.line):
            packed.append(n)
            if line >= 0 and (n + 1 == self.cells or self.line[n + 1] != line):
                packed.append(-1)
        return packed


def single(rows: int, columns: int, *, newline: bool = False) -> Tiling:
    """A picture in one piece, as LLaVA-1.5's and Qwen's.

    >>> single(24, 24).tokens
    576
    """
    return Tiling(whole=(rows, columns), newlines=newline)


def spans(tiles: int, extent: Span = (0.0, 1.0)) -> tuple[Span, ...]:
    """The part of a picture that each of `tiles` equal pieces of a canvas covers.

    Args:
        extent: where on the canvas the picture lies.
    """
    low, high = extent
    edge = [min(1.0, max(0.0, (n / tiles - low) / (high - low))) for n in range(tiles + 1)]
    return tuple(pairwise(edge))


def cover(span: Span, cells: int) -> list[float]:
    """How much of each of `cells` equal pieces of [0, 1] lies within `span`: 1 for all of it.

    >>> cover((0.0, 0.375), 4)
    [1.0, 0.5, 0.0, 0.0]
    """
    low, high = (edge * cells for edge in span)  # in cells, so that an edge between two of them is a whole number
    return [max(0.0, min(high, n + 1) - max(low, n)) for n in range(cells)]


def picture_size(size: Sequence[int]) -> tuple[int, int]:
    """(height, width), checked.

    Raises:
        InputError: another count of numbers, or one that is no whole number above 0.
    """
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        raise InputError(f"image_size {size!r} is not (height, width) in pixels") from None
    if height < 1 or width < 1:
        raise InputError(f"image_size {height}x{width}: height and width are at least 1 pixel")
    return height, width

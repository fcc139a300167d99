"""Water-filling, and every golden vector of HiRED's shares."""

import random

import pytest
import torch

from foveate.budgets import waterfill
from foveate.budgets.content import content, shared_by_content
from foveate.budgets.hired import counted, floored
from foveate.budgets.registered import Sight
from foveate.budgets.tiling import Tiling, spans

CELL = torch.arange(576, dtype=torch.float64)
ROW, COLUMN = CELL // 24, CELL % 24
ATTENTION = {
    "mod": (7 * CELL) % 577 + 1,
    "blob": torch.exp(-((ROW - 6) ** 2 + (COLUMN - 17) ** 2) / 32),
}
# Cells at the same distance from the blob tie for the last of 288 places, and which of them goes in moves one token.
TIED = {("blob", (1, 3))}


def square(rows: int, columns: int) -> Tiling:
    """Tiles without padding."""
    return Tiling(
        whole=(24, 24),
        tile=(24, 24),
        down=tuple(r for r in range(rows) for _ in range(24)),
        across=tuple(c for c in range(columns) for _ in range(24)),
        rows=spans(rows),
        columns=spans(columns),
        box=(0, 24 * rows, 0, 24 * columns),
    )


# specs, section 3: attention, grid, N_0, N_sub; exact tiles, bands of 288, true tiles of 288, of 100
GOLDEN = [
    ("mod", (2, 2), 288, 288, [67, 66, 76, 77], [61, 63, 83, 81], [63, 61, 81, 83], [69, 57, 72, 89]),
    ("blob", (2, 2), 288, 288, [23, 239, 2, 23], [104, 106, 78, 0], [66, 144, 13, 65], [0, 288, 0, 0]),
    ("mod", (1, 3), 230, 230, [76, 76, 76], [65, 76, 87], [76, 77, 75], [75, 75, 78]),
    ("blob", (1, 3), 230, 230, [2, 83, 144], [111, 104, 13], [14, 103, 111], [0, 78, 151]),
    ("blob", (1, 2), 172, 173, [15, 157], [126, 46], [47, 125], [0, 173]),
]


@pytest.mark.parametrize("name, grid, whole, left, exact, bands, tiles, hundred", GOLDEN)
def test_golden(name, grid, whole, left, exact, bands, tiles, hundred):
    tiling, early = square(*grid), ATTENTION[name]
    budget = tiling.nominal // 5
    assert (int(0.5 * budget), budget - int(0.5 * budget)) == (whole, left)
    rooms = tiling.capacities[1:]
    assert floored(left, content(tiling, early), rooms) == exact
    assert floored(left, counted(early, 288, tiling, bands=True), rooms) == bands
    got = floored(left, counted(early, 288, tiling, bands=False), rooms)
    assert got == tiles or ((name, grid) in TIED and max(abs(a - b) for a, b in zip(got, tiles, strict=True)) == 1)
    assert floored(left, counted(early, 100, tiling, bands=False), rooms) == hundred
    # ours is the paper's plus what its rounding loses
    ours = shared_by_content(Sight(tiling, early=early), budget, 0.5)
    assert ours[0] == whole and sum(ours) == budget
    assert all(0 <= mine - theirs <= 1 for mine, theirs in zip(ours[1:], exact, strict=True))


@pytest.mark.parametrize(
    "grid, share, expected",
    [
        ((1, 1), 0.2, (230, 115, 115)),
        ((1, 1), 0.4, (460, 230, 230)),
        ((1, 2), 0.2, (345, 172, 173)),
        ((1, 2), 0.4, (691, 345, 346)),
        ((1, 3), 0.2, (460, 230, 230)),
        ((1, 3), 0.4, (921, 460, 461)),
        ((2, 2), 0.2, (576, 288, 288)),
        ((2, 2), 0.4, (1152, 576, 576)),
        ((2, 2), 0.6, (1728, 576, 1152)),
    ],
)
def test_nominal_budgets(grid, share, expected):
    tiling = square(*grid)
    from foveate.budgets import Budget

    total = Budget(ratio=share, base="nominal").of(tiling)
    shared = shared_by_content(Sight(tiling, early=ATTENTION["mod"]), total, 0.5)
    assert (total, shared[0], sum(shared[1:])) == expected


def test_bands_are_no_tiles():
    """All salience in the upper left quadrant: the released code's bands give half of it to the upper right."""
    early = ((ROW < 12) & (COLUMN < 12)).double()
    tiling = square(2, 2)
    assert counted(early, 144, tiling, bands=True) == [72, 72, 0, 0]
    assert counted(early, 144, tiling, bands=False) == [144, 0, 0, 0]


def test_waterfill_in_200_000_cases():
    rng = random.Random(0)
    for _ in range(200_000):
        parts = rng.randint(1, 6)
        rooms = [rng.choice([0, 0, 100, 432, 576]) if rng.random() < 0.3 else rng.randint(1, 576) for _ in range(parts)]
        shares = [
            rng.choice([0, rng.random() ** 4, float("nan"), float("inf"), -1.0])
            if rng.random() < 0.3
            else rng.random() ** rng.choice([1, 8])
            for _ in range(parts)
        ]
        tokens = rng.randint(0, 4000)
        given = waterfill(tokens, shares, rooms)
        assert sum(given) == min(tokens, sum(rooms))
        assert all(0 <= got <= room for got, room in zip(given, rooms, strict=True))


def test_waterfill_is_in_proportion():
    assert waterfill(100, [1, 1, 2], [1000] * 3) == [25, 25, 50]
    assert waterfill(10, [1, 1, 1], [100] * 3) == [4, 3, 3]  # of equal remainders the first
    assert waterfill(100, [8, 1, 1], [10, 1000, 1000]) == [10, 45, 45]
    assert waterfill(30, [0, 0, 0], [10, 20, 30]) == [5, 10, 15]
    assert waterfill(3, [1e308, 1e308, 1e-308], [9, 9, 9]) == [2, 1, 0]
    assert waterfill(30, [5, 0, 0], [10, 20, 20]) == [10, 10, 10]


def test_content_is_where_the_tiles_are():
    """Salience in one tile alone moves the budget there, on oblong and padded grids too."""
    from foveate.budgets import sizes

    tiling = sizes.anyres((400, 1400), [(336, 1008)])
    for column, span in enumerate(tiling.columns):
        low, high = (edge * 24 for edge in span)
        early = ((low < COLUMN + 1) & (high > COLUMN)).double() * (low <= COLUMN).double() * (high >= COLUMN + 1)
        shares = content(tiling, early)
        assert shares[column] > 0 and sum(shares) == pytest.approx(shares[column])

"""Sizes to tokens: whole numbers, the mosaic's geometry, and that none of it needs torch."""

import subprocess
import sys

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.tilings import PINPOINTS, tilings

from foveate import budgets
from foveate.budgets import sizes
from foveate.budgets.tiling import Tiling, cover, single, spans
from foveate.errors import InputError

# Spec, verified with transformers 5.23: tokens of LLaVA-NeXT for (height, width).
FULL = {
    (480, 640): 2340,
    (640, 480): 2352,
    (600, 600): 2928,
    (336, 1008): 2328,
    (200, 800): 1890,
    (800, 200): 1944,
    (1080, 1920): 1948,
    (224, 224): 1176,
}
SIDE = st.integers(1, 5000)


@pytest.mark.parametrize("size", FULL)
def test_full_counts(size: tuple[int, int]):
    assert sizes.anyres(size, PINPOINTS).tokens == FULL[size]


@settings(deadline=None)
@given(tilings())
def test_a_tiling_adds_up(tiling: Tiling):
    assert sum(tiling.capacities) == tiling.cells == len(tiling.part) == len(tiling.line) == len(tiling.place)
    assert len(tiling.capacities) == tiling.tiles + int(tiling.viewed)
    assert sorted(tiling.row + tiling.newline_row) == list(range(tiling.tokens))
    assert len(tiling.newline_row) == tiling.lines
    assert [tiling.part.count(p) for p in range(len(tiling.capacities))] == list(tiling.capacities)
    assert len(set(zip(tiling.part, tiling.place, strict=True))) == tiling.cells
    # a newline follows the last cell of its line
    for line, row in enumerate(tiling.newline_row):
        last = max(n for n, of in enumerate(tiling.line) if of == line)
        assert row == tiling.row[last] + 1


@settings(deadline=None)
@given(st.tuples(SIDE, SIDE))
def test_what_tiles_cover_is_the_picture_once(size: tuple[int, int]):
    assume(max(size) / min(size) < 24)
    tiling = sizes.anyres(size, PINPOINTS)
    for covered in (tiling.rows, tiling.columns):
        pieces = [cover(span, 24) for span in covered]
        assert [sum(piece[n] for piece in pieces) for n in range(24)] == pytest.approx([1.0] * 24)


def test_cover_knows_padding():
    """A 4:3 picture on a square canvas: an eighth of it is empty above, so the upper tile covers half of it still."""
    assert [round(sum(cover(span, 24)), 9) for span in spans(2, (0.125, 0.875))] == [12, 12]
    upper, lower = spans(2, (0.0, 0.75))  # all padding below
    assert upper == pytest.approx((0, 2 / 3)) and lower == pytest.approx((2 / 3, 1))


def test_internvl_goes_tile_by_tile():
    tiling = sizes.squeezed((448, 896))
    assert tiling.tokens == 768 and tiling.capacities == (256, 256, 256)
    assert tiling.part[:256] == (1,) * 256 and tiling.part[512:] == (0,) * 256


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda: sizes.anyres((0, 5), PINPOINTS), "image_size 0x5"),
        (lambda: sizes.anyres((5,), PINPOINTS), "not (height, width)"),
        (lambda: sizes.anyres((5, 5), []), "pinpoints"),
        (lambda: sizes.anyres((5, 5), [(300, 336)]), "300x336"),
        (lambda: sizes.anyres((1, 4000), PINPOINTS), "too long"),
        (lambda: sizes.dynamic((1, 4000)), "200 times"),
        (lambda: budgets.count(single(2, 2), 0), "at least 1 token"),
        (lambda: budgets.count(single(2, 2), 0.0), "above 0"),
        (lambda: budgets.count(single(2, 2), -0.5), "above 0"),
        (lambda: budgets.count(single(2, 2), float("nan")), "above 0"),
        (lambda: budgets.count(single(2, 2), 1.5), "at most 1.0"),
        (lambda: budgets.count(single(2, 2), True), "a share such as"),
        (lambda: budgets.count(single(2, 2), "much"), "a share such as"),
        (lambda: budgets.count(single(2, 2), 0.5, newlines="some"), "rows, all, none"),
        (lambda: budgets.count(sizes.anyres((224, 224), PINPOINTS), 24, newlines="all"), "24 newlines alone"),
        (lambda: budgets.Budget(ratio=0.2, tokens=3), "a ratio or a number"),
        (lambda: budgets.Budget(ratio=0.2, base="pixels"), "nominal"),
    ],
)
def test_refused(call, told: str):
    with pytest.raises(InputError) as caught:
        call()
    assert told in str(caught.value)


def test_budgets_are_bounded_by_what_there_is():
    tiling = sizes.anyres((480, 640), PINPOINTS)
    assert budgets.count(tiling, 10**9) == budgets.count(tiling, 1.0) == tiling.tokens == 2340
    assert budgets.count(tiling, 1) == 1 and budgets.count(tiling, 1e-9) == 1
    assert budgets.count(tiling, 2339, newlines="none") == tiling.cells
    assert budgets.count(tiling, budgets.Budget(ratio=0.2, base="nominal")) == 576


def test_counting_needs_no_torch():
    code = (
        "import sys; from foveate import budgets; "
        "assert budgets.count(budgets.sizes.anyres((480, 640), [(672, 672)]), 0.2) == 468; "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

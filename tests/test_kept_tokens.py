"""What stays is drawn where it is."""

from PIL import Image

from foveate.budgets import single, sizes
from foveate.report.tokens import GAP, TILE, kept_tokens


def test_a_cell_is_drawn_in_its_place():
    black = Image.new("RGB", (80, 40))
    tiling = single(2, 4)
    drawn = kept_tokens(black, tiling, [5], height=40)
    assert drawn.size == (80, 40)
    dark = {(x // 20, y // 20) for x in range(0, 80, 5) for y in range(0, 40, 5) if drawn.getpixel((x, y)) == (0, 0, 0)}
    assert dark == {(1, 1)}  # cell 5 of rows of four: second row, second column


def test_tiles_stand_beside_the_whole_view():
    tiling = sizes.anyres((400, 200), [(672, 336)])
    picture = Image.new("RGB", (200, 400))
    upper = [n for n, part in enumerate(tiling.part) if part == 1]
    drawn = kept_tokens(picture, tiling, upper, height=336)
    assert drawn.size == (168 + GAP + 168, 336)
    left, right = 168 + GAP + 80, 80
    assert drawn.getpixel((left, 40)) == (0, 0, 0) and drawn.getpixel((left, 300)) != (0, 0, 0)
    assert drawn.getpixel((right, 40)) != (0, 0, 0)
    assert TILE in [drawn.getpixel((left, y)) for y in range(336)]

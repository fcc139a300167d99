"""From a picture's size to its tokens, the families' own arithmetic: what an engine needs before it has seen a pixel.

Written from the behaviour of Hugging Face's processors and models (transformers 5.24); tests compare with both.
"""

import math
from collections.abc import Sequence

from foveate.budgets.tiling import Span, Tiling, picture_size, single, spans
from foveate.errors import InputError


def anyres(
    image_size: Sequence[int],
    pinpoints: Sequence[Sequence[int]],
    *,
    tile: int = 336,
    grid: int = 24,
    newline: bool = True,
    max_tiles: int | None = None,
) -> Tiling:
    """LLaVA-NeXT's and LLaVA-OneVision's: a whole view squeezed into a square, and tiles of a padded canvas.

    Args:
        image_size: (height, width) in pixels.
        pinpoints: the canvases to choose from, (height, width) in pixels, multiples of `tile`.
        tile: a tile's side in pixels.
        grid: a tile's side in tokens.
        newline: a token ends every row of the mosaic.
        max_tiles: a mosaic of clearly more tokens than so many tiles have is made smaller (OneVision's
            `anyres_max_9`).

    >>> anyres((480, 640), [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]).tokens
    2340
    """
    height, width = picture_size(image_size)
    canvas = best_canvas((height, width), pinpoints)
    if any(side % tile for side in canvas):
        raise InputError(f"pinpoint {canvas[0]}x{canvas[1]} is not made of tiles of {tile} pixels")
    down, across = canvas[0] // tile, canvas[1] // tile
    top, bottom, left, right = unpadded((height, width), (down * grid, across * grid))
    rows, columns = range(top, bottom), range(left, right)
    of_rows, of_columns = [r // grid for r in rows], [c // grid for c in columns]
    if max_tiles is not None:
        ratio = math.sqrt(len(rows) * len(columns) / (max_tiles * grid**2))
        if ratio > 1.1:
            of_rows = _nearest(of_rows, int(len(rows) // ratio))
            of_columns = _nearest(of_columns, int(len(columns) // ratio))
    vertical, horizontal = extents((height, width), canvas)
    if not of_rows or not of_columns:
        raise InputError(f"image_size {height}x{width}: too long for this model, none of its tokens would be left")
    return Tiling(
        whole=(grid, grid),
        tile=(grid, grid),
        down=tuple(of_rows),
        across=tuple(of_columns),
        rows=spans(down, vertical),
        columns=spans(across, horizontal),
        box=(top, bottom, left, right),
        newlines=newline,
    )


def best_canvas(image_size: tuple[int, int], pinpoints: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The pinpoint that shows most of the picture's pixels, and of those the one with the least area left over."""
    if not pinpoints:
        raise InputError("pinpoints: at least one (height, width) is needed")
    height, width = image_size

    def shown(canvas: Sequence[int]) -> int:
        scale = min(canvas[1] / width, canvas[0] / height)
        return min(int(width * scale) * int(height * scale), width * height)

    best = max(pinpoints, key=lambda canvas: (shown(canvas), shown(canvas) - canvas[0] * canvas[1]))
    return int(best[0]), int(best[1])


def unpadded(image_size: tuple[int, int], mosaic: tuple[int, int]) -> tuple[int, int, int, int]:
    """The rows and columns of a mosaic that are not padding: top, bottom, left, right."""
    (height, width), (rows, columns) = image_size, mosaic
    if width / height > columns / rows:
        pad = (rows - int(round(height * (columns / width), 7))) // 2
        return pad, rows - pad, 0, columns
    pad = (columns - int(round(width * (rows / height), 7))) // 2
    return 0, rows, pad, columns - pad


def extents(image_size: tuple[int, int], canvas: tuple[int, int]) -> tuple[Span, Span]:
    """Where on its padded canvas a picture lies, in shares of the canvas' height and width."""
    (height, width), (tall, wide) = image_size, canvas
    if wide / width < tall / height:
        shown = min(math.ceil(height * (wide / width)), tall), wide
    else:
        shown = tall, min(math.ceil(width * (tall / height)), wide)
    top, left = (tall - shown[0]) // 2, (wide - shown[1]) // 2
    return (top / tall, (top + shown[0]) / tall), (left / wide, (left + shown[1]) / wide)


def squeezed(
    image_size: Sequence[int], *, tile: int = 448, grid: int = 16, min_tiles: int = 1, max_tiles: int = 12
) -> Tiling:
    """InternVL's: tiles of a canvas into which the picture is squeezed, and a thumbnail after them if there are two.

    >>> squeezed((896, 448)).tokens, squeezed((300, 300)).tokens
    (768, 256)
    """
    columns, rows = closest_grid(picture_size(image_size), tile, min_tiles, max_tiles)
    return thumbnailed(rows, columns, grid)


def thumbnailed(rows: int, columns: int, grid: int) -> Tiling:
    """So many tiles, tile by tile, and a thumbnail after them if there are two or more."""
    if rows * columns == 1:
        return single(grid, grid)
    return Tiling(
        whole=(grid, grid),
        tile=(grid, grid),
        down=tuple(r for r in range(rows) for _ in range(grid)),
        across=tuple(c for c in range(columns) for _ in range(grid)),
        rows=spans(rows),
        columns=spans(columns),
        box=(0, rows * grid, 0, columns * grid),
        order="tiles",
        whole_last=True,
    )


def closest_grid(image_size: tuple[int, int], tile: int, min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """Columns and rows of tiles whose shape is closest to the picture's; of equals, more where it has the pixels."""
    height, width = image_size
    sides = range(1, max_tiles + 1)
    grids = [(w, h) for w in sides for h in sides if min_tiles <= w * h <= max_tiles]
    grids.sort(key=lambda grid: grid[0] * grid[1])
    best, least = (1, 1), math.inf
    for w, h in grids:
        off = abs(width / height - w / h)
        if off < least or (off == least and width * height > 0.5 * tile * tile * w * h):
            best, least = (w, h), off
    return best


def dynamic(
    image_size: Sequence[int],
    *,
    patch: int = 14,
    merge: int = 2,
    min_pixels: int = 56 * 56,
    max_pixels: int = 28 * 28 * 1280,
) -> Tiling:
    """Qwen's: one grid in the picture's own shape, within bounds of pixels.

    Args:
        patch: a patch's side in pixels.
        merge: patches to a side that one token stands for.

    >>> dynamic((480, 640)).whole
    (17, 23)
    """
    height, width = picture_size(image_size)
    unit = patch * merge
    if max(height, width) / min(height, width) > 200:
        raise InputError(f"image_size {height}x{width}: longer than 200 times its width is more than this model takes")
    tall, wide = round(height / unit) * unit, round(width / unit) * unit
    if tall * wide > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        tall, wide = (max(unit, math.floor(side / scale / unit) * unit) for side in (height, width))
    elif tall * wide < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        tall, wide = (math.ceil(side * scale / unit) * unit for side in (height, width))
    return single(tall // unit, wide // unit)


def _nearest(labels: list[int], count: int) -> list[int]:
    """The tile of every cell of a mosaic that was made smaller: the one that its centre lies in."""
    return [labels[min(len(labels) - 1, int((n + 0.5) * len(labels) / count))] for n in range(count)]

"""Where every patch went, drawn over its photograph: kept ones stay sharp, merged ones take the mean colour of their
region, as in ToMe's figures (Bolya et al., 2023), and dropped ones are veiled."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LUMA = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True)
class Region:
    """Patches that became one token."""

    path: str  # SVG path data, one unit a patch
    edge: str  # SVG path data of its outline
    colour: str
    rim: str  # of the outline: the colour, darker where it is light and lighter where it is dark


@dataclass(frozen=True)
class Drawing:
    regions: list[Region]
    dropped: str  # SVG path data: the veil
    tokens: int  # patch tokens left
    kept: int  # of them, those that stand for one patch
    merged: int  # patches that share a token
    gone: int  # patches in no token


def draw(source: Sequence[int], grid: tuple[int, int], jpeg: bytes) -> Drawing:
    """The source map [P] of one block as shapes over the photograph `jpeg`, which the grid covers whole."""
    h, w = grid
    owner = np.asarray(source, dtype=np.int64).reshape(h, w)
    means = patch_means(jpeg, grid)
    ids, counts = np.unique(owner[owner >= 0], return_counts=True)
    shared = ids[counts > 1]
    regions = []
    for token in shared:
        cells = owner == token
        mean = means[cells].mean(0)
        towards = 0.0 if mean @ LUMA > 110 else 255.0
        regions.append(Region(runs(cells), outline(cells), _rgb(mean), _rgb(0.68 * mean + 0.32 * towards)))
    return Drawing(
        regions=regions,
        dropped=runs(owner < 0),
        tokens=len(ids),
        kept=int((counts == 1).sum()),
        merged=int(counts[counts > 1].sum()),
        gone=int((owner < 0).sum()),
    )


def patch_means(jpeg: bytes, grid: tuple[int, int]) -> np.ndarray:
    """Mean colour of every patch: [h w 3], 0 to 255."""
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as image:
        small = image.convert("RGB").resize((grid[1], grid[0]), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)


def runs(cells: np.ndarray) -> str:
    """Path of the cells [h w] that are set, one rectangle a horizontal run."""
    parts = []
    for y, row in enumerate(cells):
        parts += [f"M{a} {y}h{b - a}v1h{a - b}z" for a, b in _spans(row)]
    return "".join(parts)


def outline(cells: np.ndarray) -> str:
    """Path along every edge between a cell [h w] that is set and one that is not, or the rim of the grid."""
    inside = np.pad(cells, 1).astype(np.int8)
    parts = []
    for y, row in enumerate(np.diff(inside, axis=0)[:, 1:-1] != 0):  # [h+1 w]
        parts += [f"M{a} {y}H{b}" for a, b in _spans(row)]
    for x, column in enumerate((np.diff(inside, axis=1)[1:-1] != 0).T):  # [w+1 h]
        parts += [f"M{x} {a}V{b}" for a, b in _spans(column)]
    return "".join(parts)


def _rgb(colour: np.ndarray) -> str:
    r, g, b = colour.round().astype(int)
    return f"rgb({r},{g},{b})"


def _spans(row: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], row.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]

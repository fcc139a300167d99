"""Which tokens of a picture stay, drawn on it: the whole view on the left, the mosaic of tiles on the right."""

from collections.abc import Collection

from PIL import Image, ImageDraw

from foveate.budgets.tiling import Tiling

FADED, VEIL = 0.75, (150, 160, 160)  # how far what is dropped goes towards a grey, which shows on white paper too
GAP = 12
TILE = (214, 39, 40)


def kept_tokens(image: Image.Image, tiling: Tiling, cells: Collection[int], *, height: int = 480) -> Image.Image:
    """Draw a picture once for each view that the model has of it; cells that are dropped are faded.

    Args:
        image: the picture that was asked about.
        cells: indices of the cells that stay.
        height: of the drawing, in pixels.
    """
    stays = set(cells)
    panels = []
    if tiling.viewed:
        own = {tiling.place[n]: n in stays for n, part in enumerate(tiling.part) if part == 0}
        # squeezed into a square by most models; drawn in its own shape, so that both panels can be compared
        panels.append(_panel(image, tiling.whole, own, height, (), ()))
    if tiling.tiles:
        first = int(tiling.viewed)
        own = {tiling.place[n]: n in stays for n, part in enumerate(tiling.part) if part >= first}
        edges = [_edges(labels) for labels in (tiling.down, tiling.across)]
        panels.append(_panel(image, (len(tiling.down), len(tiling.across)), own, height, *edges))
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    drawn = Image.new("RGB", (width, height), "white")
    left = 0
    for panel in panels:
        drawn.paste(panel, (left, 0))
        left += panel.width + GAP
    return drawn


def _panel(
    image: Image.Image,
    shape: tuple[int, int],
    stays: dict[tuple[int, int], bool],
    height: int,
    rows: Collection[int],
    columns: Collection[int],
) -> Image.Image:
    """The picture under a grid of cells, with lines before these rows and columns."""
    width = max(1, round(height * image.width / image.height))
    sharp = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    mask = Image.new("L", (shape[1], shape[0]), 0)
    for (row, column), kept in stays.items():
        if kept:
            mask.putpixel((column, row), 255)
    faded = Image.blend(sharp, Image.new("RGB", sharp.size, VEIL), FADED)
    drawn = Image.composite(sharp, faded, mask.resize(sharp.size, Image.Resampling.NEAREST))
    lines = ImageDraw.Draw(drawn)
    for row in rows:
        y = row * height // shape[0]
        lines.line([(0, y), (width, y)], fill=TILE)
    for column in columns:
        x = column * width // shape[1]
        lines.line([(x, 0), (x, height)], fill=TILE)
    return drawn


def _edges(labels: tuple[int, ...]) -> list[int]:
    """Where a new tile begins, but for the first."""
    return [n for n in range(1, len(labels)) if labels[n] != labels[n - 1]]

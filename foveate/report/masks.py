"""One page about masks: IoU by class, and colours laid over photographs, found beside true."""

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from foveate.files import write_text
from foveate.report.page import render
from foveate.report.photos import data_uri
from foveate.report.tables import origins
from foveate.report.words import Table, between, fixed
from foveate.result import Result

GOLDEN = 0.61803398875
WIDTH = 480  # pixels of a photograph in the page, at most


@dataclass(frozen=True)
class Pane:
    name: str
    caption: str
    src: str


def palette(classes: int) -> np.ndarray:
    """uint8 [classes 3]: hues a golden angle apart, so that neighbours in number differ; three lightnesses by turns."""
    colours = [colorsys.hls_to_rgb((0.58 + i * GOLDEN) % 1, (0.45, 0.62, 0.34)[i % 3], 0.75) for i in range(classes)]
    return np.round(255 * np.array(colours)).astype(np.uint8)


def mask_image(mask: np.ndarray, classes: int) -> Image.Image:
    """A mask [h w] as an image with a palette: its values are the classes, what is shown their colours."""
    image = Image.fromarray(mask)
    image.putpalette(palette(max(2, classes)).ravel().tolist())
    return image


def laid_over(image: Image.Image, mask: np.ndarray, classes: int, strength: float = 0.62) -> Image.Image:
    """The photograph with the colours of its classes [h w] over it; where the mask holds no class, grey and dark."""
    x, known = np.asarray(image.convert("RGB"), dtype=np.float32), mask < classes
    colour = palette(classes)[np.where(known, mask, 0)].astype(np.float32)
    grey = 0.35 * x.mean(-1, keepdims=True).repeat(3, -1)
    y = np.where(known[..., None], (1 - strength) * x + strength * colour, grey)
    return Image.fromarray(np.round(y).clip(0, 255).astype(np.uint8))


def coloured(mask: np.ndarray, classes: int, strength: float = 0.62) -> bytes:
    """A PNG of the colours of a mask's classes [h w], to lie over its photograph; clear where it holds no class."""
    known = mask < classes
    alpha = np.where(known, round(255 * strength), 0)[..., None].astype(np.uint8)
    pixels = np.concatenate([palette(classes)[np.where(known, mask, 0)], alpha], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def pane(name: str, caption: str, image: Image.Image) -> Pane:
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=86)
    return Pane(name, caption, data_uri(buffer.getvalue()))


def write_masks(
    path: str | Path,
    result: Result,
    by_class: Sequence[float],
    rows: Sequence[Sequence[Pane]],
    names: Sequence[str] | None = None,
) -> Path:
    """Write one self-contained HTML page; returns its path.

    Args:
        result: the mean IoU, in %.
        by_class: IoU of every class in 0..1, NaN for one that does not occur.
        rows: photographs, each as panes side by side.
    """
    from foveate.version import __version__

    count = len(by_class)
    colours = [f"rgb({r},{g},{b})" for r, g, b in palette(count).tolist()]
    shown = [names[i] if names else f"class {i}" for i in range(count)]
    table = Table("IoU by class", ["class", "IoU, %"], numeric=(1,))
    table.rows = [[name, fixed(100 * v, 2)] for name, v in zip(shown, by_class, strict=True)]
    page = render(
        "masks.html.j2", title=f"Masks of {result.tags.get('target', 'a model')}", version=__version__, figures=[],
        value=f"{fixed(result.value, 2)} %", low_high=between(result.low, result.high, 2), count=result.n,
        table=table, colours=list(zip(shown, colours, strict=True)), rows=rows, origin=origins([result]),
    )  # fmt: skip
    return write_text(path, page)

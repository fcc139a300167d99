"""Photographs with a mask each, for semantic segmentation: ADE20K's folders, and SegNet's of CamVid, read as they are.

    ADE20K    images/SPLIT/a.jpg    annotations/SPLIT/a.png    0 is void, classes count from 1
    SegNet    SPLIT/a.jpg           SPLITannot/a.png           classes count from 0, their number is void

In both, 255 is void too. What is void is neither learnt nor judged. A folder, or a .zip of one.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.evaluate.sources import Named, Read, open_source
from foveate.preprocess import SUFFIXES, Preprocess, decode_image

VOID = 255
Pair = tuple[Image.Image, np.ndarray]  # RGB, and uint8 (h w): classes, or VOID


@dataclass(frozen=True)
class Masked(Named):
    """Photographs with a mask each."""

    masks: tuple[str, ...]
    count: int  # of classes
    first: int  # the label of class 0
    without: int = 0  # photographs left out, since they have no mask

    @contextmanager
    def opened(self) -> Iterator[Callable[[int], Pair]]:
        """A function from an index to a photograph and its mask; it raises InputError for what is unreadable or does
        not fit."""
        with self.source.reader() as read:
            yield lambda index: self._pair(read, index)

    def take(self, indices: Sequence[int] | np.ndarray) -> "Masked":
        """Those photographs, in that order."""
        names, masks = (tuple(every[int(i)] for i in indices) for every in (self.names, self.masks))
        return replace(self, names=names, masks=masks)

    def arrays(self, preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
        """float32 [S 3 h w], and the masks cut alike, uint8 [S h w]: see `aligned`.

        Raises:
            InputError: a photograph or a mask that cannot be used.
        """
        x = np.empty((len(self), preprocess.channels, *preprocess.size), dtype=np.float32)
        masks = np.empty((len(self), *preprocess.size), dtype=np.uint8)
        with self.opened() as read:
            for i in range(len(self)):
                image, mask = read(i)
                x[i], masks[i] = preprocess(image), aligned(mask, preprocess)
        return x, masks

    def _pair(self, read: Read, index: int) -> Pair:
        name, shown = self.names[index], f"{self.shown}/{self.masks[index]}"
        image = decode_image(read(name), f"{self.shown}/{name}")
        mask = decode_mask(read(self.masks[index]), shown, classes=self.count, first=self.first)
        if mask.shape != (image.height, image.width):
            raise InputError(
                f"mask {shown} is {mask.shape[1]} x {mask.shape[0]}, its photograph {image.width} x {image.height}; "
                "allowed: the same size"
            )
        return image, mask


def find_masks(data: str | Path, split: str | None, known: Sequence[str], *, classes: int) -> Masked:
    """The photographs of a split that have a mask.

    Args:
        split: its folder; None for the first of `known` that is there.

    Raises:
        InputError: no such split, or no masks in it.
    """
    source = open_source(Path(data))
    every = source.names()
    for name in (split,) if split is not None else tuple(known):
        for images, masks, first in ((f"images/{name}/", f"annotations/{name}/", 1), (f"{name}/", f"{name}annot/", 0)):
            drawn = {_stem(n, masks): n for n in every if n.startswith(masks) and n.lower().endswith(".png")}
            photos = [n for n in every if n.startswith(images) and n.lower().endswith(SUFFIXES)]
            both = [n for n in photos if _stem(n, images) in drawn]
            if both:
                found = tuple(drawn[_stem(n, images)] for n in both)
                return Masked(source, tuple(both), found, classes, first, len(photos) - len(both))
    tried = split or " or ".join(known)
    raise InputError(
        f"{data} has no photographs with masks for {tried}; allowed: images/SPLIT/a.jpg with annotations/SPLIT/a.png "
        "(ADE20K), or SPLIT/a.jpg with SPLITannot/a.png (CamVid)"
    )


def decode_mask(data: bytes, name: str, *, classes: int, first: int) -> np.ndarray:
    """uint8 (h w): classes from 0, and VOID.

    Raises:
        InputError: not a PNG of one channel, damaged, or a label out of range.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        image.load()
    except Exception as e:  # damaged files make decoders raise nearly anything: OSError, SyntaxError, zlib.error ...
        raise InputError(f"mask {name} cannot be read ({' '.join(str(e).split())}); allowed: a PNG") from None
    if image.mode not in ("L", "P", "I;16", "I"):
        raise InputError(f"mask {name} is a {image.mode} image; allowed: one channel (grey or palette) of labels")
    raw = np.asarray(image).astype(np.int64)
    void = (raw == VOID) | (raw == (0 if first else classes))
    wrong = ~void & ((raw < first) | (raw >= first + classes))
    if wrong.any():
        allowed = f"{first} to {first + classes - 1}, void: {0 if first else classes} and {VOID}"
        raise InputError(f"mask {name} holds the label {raw[wrong][0]}; allowed for {classes} classes: {allowed}")
    return np.where(void, VOID, raw - first).astype(np.uint8)


def aligned(mask: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """uint8 [h w] of the model's size: the mask as its photograph is resized and cropped, VOID beyond its edges.

    The nearest label is taken, since a mixture of two classes is a third.
    """
    size, box = preprocess.placed(*mask.shape)
    # A crop beyond the edges is filled with 0, so the labels are turned round to make 0 stand for VOID.
    turned = Image.fromarray(VOID - mask).resize(size, Image.Resampling.NEAREST).crop(box)
    return VOID - np.asarray(turned)


def _stem(name: str, folder: str) -> str:
    return name[len(folder) :].rpartition(".")[0]

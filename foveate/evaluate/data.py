"""Photographs to plan and to judge with, their labels where there are any."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.evaluate.layout import find_layout
from foveate.evaluate.sources import Read, Source, open_source, sorted_folders
from foveate.preprocess import Preprocess, decode_image


@dataclass(frozen=True, eq=False)
class Images:
    """A sequence of photographs: `images[3]` is an RGB Pillow image, `images[:10]` are ten of them.

    names: relative to the source, forward slashes. labels: int64 (S,), indices into the model's output, or None.
    classes: what the indices mean, where known. skipped: names of photographs that could not be read.
    note: what a reader of the results should know, or None.
    """

    source: Source
    names: tuple[str, ...]
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    skipped: tuple[str, ...] = ()
    note: str | None = None
    _cache: dict[Preprocess, np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> "Images": ...
    def __getitem__(self, index: int | slice) -> "Image.Image | Images":
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        with self.source.reader() as read:
            return self._decode(read, self.names[index])

    def __iter__(self) -> Iterator[Image.Image]:
        with self.source.reader() as read:
            for name in self.names:
                yield self._decode(read, name)

    def __str__(self) -> str:
        kinds = "no labels" if self.labels is None else f"{len(np.unique(self.labels))} classes"
        lost = f", {len(self.skipped)} unreadable left out" if self.skipped else ""
        return f"{len(self):,} photographs of {self.source.shown} ({kinds}{lost})"

    @property
    def digest(self) -> str:
        """Names this very selection, order and labels included, in 12 hexadecimal digits."""
        labels = [""] * len(self) if self.labels is None else [str(label) for label in self.labels]
        text = "\n".join(f"{name}\t{label}" for name, label in zip(self.names, labels, strict=True))
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]

    def take(self, indices: Sequence[int] | np.ndarray) -> "Images":
        """Those photographs, in that order."""
        at = [int(i) for i in indices]
        labels = None if self.labels is None else self.labels[at]
        names = tuple(self.names[i] for i in at)
        return Images(self.source, names, labels, self.classes, self.skipped, self.note)

    def split(self, share: float, seed: int = 0) -> tuple["Images", "Images"]:
        """(about `share` of them, the rest): no photograph in both or in neither, each class in proportion.

        Each part has at least one. Both keep the order.

        Raises:
            InputError: a share outside (0, 1), or fewer than two photographs.
        """
        first, rest = self.parts(share, seed)
        return self.take(first), self.take(rest)

    def parts(self, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The indices of `split`."""
        if not 0 < share < 1:
            raise InputError(f"split share {share}; allowed: between 0 and 1, both excluded")
        if len(self) < 2:
            raise InputError(f"{self} cannot be split; allowed: at least 2")
        first = min(max(round(share * len(self)), 1), len(self) - 1)
        chosen = np.zeros(len(self), dtype=bool)
        chosen[_mixed(self.labels, len(self), seed)[:first]] = True
        return np.flatnonzero(chosen), np.flatnonzero(~chosen)

    def array(self, preprocess: Preprocess) -> np.ndarray:
        """float32 (S 3 h w), read-only, kept for the next call with the same preprocessing.

        Memory: 0.6 MB a photograph at 224 px (12 h w bytes), so 0.6 GB for 1,000; see `batches` for more than that.

        Raises:
            InputError: a photograph that has become unreadable since it was listed.
        """
        if preprocess not in self._cache:
            self._cache[preprocess] = self.decoded(preprocess)
            self._cache[preprocess].flags.writeable = False
        return self._cache[preprocess]

    def decoded(self, preprocess: Preprocess) -> np.ndarray:
        """`array`, the caller's own: nothing is kept."""
        x = np.empty((len(self), preprocess.channels, *preprocess.size), dtype=np.float32)
        at = 0
        for part in self.batches(preprocess):
            x[at : at + len(part)] = part
            at += len(part)
        return x

    def batches(self, preprocess: Preprocess, batch: int = 64) -> Iterator[np.ndarray]:
        """float32 (up to `batch` channels h w) at a time, decoded by a few threads; nothing is kept."""
        with self.source.reader() as read, ThreadPoolExecutor(_threads()) as pool:
            for at in range(0, len(self), batch):
                names = self.names[at : at + batch]
                yield np.stack(
                    list(pool.map(lambda name: preprocess(self._decode(read, name, preprocess.channels)), names))
                )

    def _decode(self, read: Read, name: str, channels: int = 3) -> Image.Image:
        return decode_image(read(name), f"{self.source.shown}/{name}", channels=channels)


def open_images(
    path: str | Path | None = None,
    *,
    classes: Sequence[str] | int | None = None,
    limit: int | None = None,
    seed: int = 0,
    unlabelled: bool = False,
    own_classes: bool = False,
    skip_bad: bool = False,
) -> Images:
    """The photographs in a folder or a .zip, or (None) those that ship with foveate; layouts: `evaluate/layout.py`.

    Shuffled by `seed` so that every beginning of the sequence holds the classes in proportion; `limit` keeps the first
    so many. Every photograph kept is decoded once here, so that a bad one is found before long work starts.

    Before the path may stand `imagefolder:`; then class folders are the classes 0, 1, ... in the order of their names,
    as in torchvision's ImageFolder, whatever they are called.

    Args:
        classes: the model's class names by output index; how many it has where they have no names; None where nothing
            is known, then photographs in named class folders come without labels.
        own_classes: the labels are whatever the folders or the table say, numbered in sorted order, and `classes` is
            not asked: for an embedding, of which only photographs alike and unlike are asked.
        unlabelled: take every photograph and no label, whatever the layout.
        skip_bad: leave out photographs that cannot be read (named in `.skipped`) instead of refusing.

    Raises:
        InputError: nothing there, no photographs, bad photographs, labels that are not the model's classes.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit}; allowed: at least 1")
    if path is None:
        return _bundled(classes, limit, seed, unlabelled, own_classes)
    path, by_order = sorted_folders(path)
    source = open_source(path)
    layout = find_layout(source, classes, unlabelled, own_classes, by_order)
    labels = None if layout.labels is None else np.asarray(layout.labels, dtype=np.int64)
    order = _mixed(labels, len(layout.names), seed)
    good, bad = _readable(source, [layout.names[i] for i in order], limit, skip_bad)
    if bad and not skip_bad:
        others = f" (and {len(bad) - 1} more unreadable)" if len(bad) > 1 else ""
        raise InputError(f"{next(iter(bad.values()))}{others}")
    if not good:
        raise InputError(
            f"none of the {len(bad)} photographs in {source.shown} can be read: {next(iter(bad.values()))}"
        )
    everything = Images(source, layout.names, labels, layout.classes, tuple(bad), layout.note)
    return everything.take(order[good])


def _bundled(
    classes: Sequence[str] | int | None, limit: int | None, seed: int, unlabelled: bool, own_classes: bool
) -> Images:
    from importlib.resources import files

    root = Path(str(files("foveate"))) / "assets" / "photos"
    own = {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
    if not own:
        raise InputError(f"this installation lacks the bundled photographs ({root}); name a folder of your own")
    if own_classes:
        return open_images(root, limit=limit, seed=seed, unlabelled=unlabelled, own_classes=True)
    tied = classes is not None and not isinstance(classes, int) and own <= set(classes)
    images = open_images(root, classes=classes, limit=limit, seed=seed, unlabelled=unlabelled or not tied)
    note = None if tied or unlabelled else "the bundled photographs' labels are not used: no classes of this model"
    return replace(images, note=note)


def _readable(
    source: Source, names: list[str], limit: int | None, skip_bad: bool
) -> tuple[list[int], dict[str, InputError]]:
    """Positions of the first `limit` photographs that decode, and what is wrong with the others met on the way."""

    def check(name: str) -> InputError | None:
        try:
            decode_image(read(name), f"{source.shown}/{name}")
        except InputError as e:
            return e
        return None

    good: list[int] = []
    bad: dict[str, InputError] = {}
    wanted = len(names) if limit is None else min(limit, len(names))
    at = 0
    with source.reader() as read, ThreadPoolExecutor(_threads()) as pool:
        while at < len(names) and len(good) < wanted:
            part = names[at : at + min(256, wanted - len(good))]
            for i, error in enumerate(pool.map(check, part), at):
                if error is None:
                    good.append(i)
                else:
                    bad[names[i]] = error
            at += len(part)
            if not skip_bad and at >= wanted:
                break
    return good, bad


def _mixed(labels: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """A random order whose every beginning holds the classes in proportion.

    The r-th (from 0) of a class's n photographs, in random order, is put at (r + u) / n with one random u a class.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    if labels is None:
        return order
    place = np.empty(count)
    for label in np.unique(labels):
        own = order[labels[order] == label]
        place[own] = (np.arange(len(own)) + rng.random()) / len(own)
    return np.argsort(place, kind="stable")


def _threads() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, usable)

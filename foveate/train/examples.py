"""Labelled photographs to learn from: in class folders, or wherever else `Examples` come from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.evaluate.sources import TRAIN, VAL, Named, Source, open_source
from foveate.preprocess import SUFFIXES, decode_image


class Examples(Protocol):
    """Photographs with their labels, by index."""

    @property
    def shown(self) -> str: ...

    def __len__(self) -> int: ...

    def opened(self) -> AbstractContextManager[Callable[[int], tuple[Image.Image, Any]]]:
        """A function from an index to a photograph and its label, for one process; InputError: it cannot be read."""
        ...


class Classified(Examples, Protocol):
    """One class a photograph."""

    @property
    def classes(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Photographs(Named):
    """Photographs with a class each."""

    labels: np.ndarray  # int64 [S]
    classes: tuple[str, ...]

    @contextmanager
    def opened(self) -> Iterator[Callable[[int], tuple[Image.Image, int]]]:
        with self.source.reader() as read:

            def example(index: int) -> tuple[Image.Image, int]:
                name = self.names[index]
                return decode_image(read(name), f"{self.shown}/{name}"), int(self.labels[index])

            yield example


def find_loose(data: str, train: str | None, val: str | None) -> tuple[Photographs, Photographs]:
    """Photographs to learn from and others to judge by, whatever folders they lie in; their labels are all 0.

    Splits where `data` has both or they are named; else every tenth by a hash of its name is to judge by, the same ones
    whatever is added later.

    Raises:
        InputError: no such split, or fewer than ten photographs.
    """
    whole = open_source(Path(data))
    names = [n for n in whole.names() if n.lower().endswith(SUFFIXES)]
    roots = {n.split("/")[0] for n in names if "/" in n}
    learnt, judged = (
        next((s for s in ((asked,) if asked else known) if asked or s in roots), None)
        for asked, known in ((train, TRAIN), (val, VAL))
    )
    if learnt is not None and judged is not None:
        found = [[n for n in names if n.startswith(f"{split}/")] for split in (learnt, judged)]
        if empty := [split for split, of in zip((learnt, judged), found, strict=True) if not of]:
            raise InputError(f"{data} has no photographs in {empty[0]}")
    else:
        tenth = [crc32(n.encode()) % 10 == 0 for n in names]
        found = [[n for n, t in zip(names, tenth, strict=True) if t is out] for out in (False, True)]
        if len(names) < 10 or not all(found):
            raise InputError(f"{data} holds {len(names)} photographs; allowed: ten or more to learn from and judge by")
    return tuple(Photographs(whole, tuple(of), np.zeros(len(of), np.int64), ("any",)) for of in found)  # type: ignore[return-value]


def find_split(data: str | Path, name: str | None, known: Sequence[str]) -> Photographs:
    """The photographs of a split, `data`/`name`/CLASS/...: a folder, or a .zip that holds such folders.

    Raises:
        InputError: no such split, none of the known names, no class folders, or an empty one.
    """
    tried = (name,) if name is not None else tuple(known)
    for split in tried:
        try:
            source = open_source(Path(data) / split)
        except InputError:
            continue
        names = [n for n in source.names() if n.lower().endswith(SUFFIXES)]
        if names:
            return _classes(source, names)
    raise InputError(f"{data} has no photographs in {' or '.join(tried)}; allowed: SPLIT/CLASS/photo.jpg")


def _classes(source: Source, names: list[str]) -> Photographs:
    loose = [n for n in names if "/" not in n]
    if loose:
        raise InputError(f"{source.shown} holds photographs outside class folders, first {loose[0]}")
    folders = {n.split("/")[0] for n in source.names() if "/" in n}
    classes = tuple(sorted({n.split("/")[0] for n in names}))
    if empty := sorted(folders - set(classes)):
        raise InputError(f"class folders without photographs in {source.shown}: {', '.join(empty[:5])}")
    index = {c: i for i, c in enumerate(classes)}
    labels = np.array([index[n.split("/")[0]] for n in names], dtype=np.int64)
    return Photographs(source, tuple(names), labels, classes)


def same_classes(train: Classified, val: Classified) -> None:
    """Raise InputError where the two splits differ in their classes."""
    if train.classes != val.classes:
        more = [f"{c} (in {s.shown} alone)" for s, o in ((train, val), (val, train))
                for c in s.classes if c not in o.classes]  # fmt: skip
        raise InputError(f"the splits differ in {len(more)} classes: {', '.join(more[:5])}")

"""Labelled photographs outside class folders: WebDataset shards, and Hugging Face datasets.

    data="shards"                shards/train-000.tar ..., val-000.tar ...: a.jpg beside a.cls, a number; classes.txt
    data="hf:food101"            a data set of the hub (or of its cache), with one image and one class column
    data="hf:/data/mine"         the same as `save_to_disk` wrote it

Both are read by index, so that batches are the same ones in the same order as from folders.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.errors import InputError, NotAvailable
from foveate.evaluate.sources import Tars
from foveate.loading.hub import no_waiting
from foveate.loading.weights import first_line
from foveate.preprocess import SUFFIXES, decode_image
from foveate.train.examples import Photographs

HUB = "hf:"
Read = Callable[[int], tuple[Image.Image, int]]


def find_shards(data: str | Path, split: str | None, known: Sequence[str]) -> Photographs | None:
    """The photographs of the shards SPLIT*.tar of a folder, or None where there are none of that name.

    Raises:
        InputError: a damaged or compressed file, a photograph without a class, a class out of range.
    """
    root = Path(data)
    for name in (split,) if split is not None else tuple(known):
        if files := sorted(root.glob(f"{name}*.tar")):
            return _labelled(Tars(root, tuple(files)), root)
    return None


def _labelled(source: Tars, root: Path) -> Photographs:
    names = [n for n in source.names() if n.lower().endswith(SUFFIXES)]
    if not names:
        first = next(iter(source.files.values()))
        raise InputError(f"{first} holds no photographs; allowed: {' '.join(SUFFIXES)} with a .cls each")
    labels = []
    with source.reader() as read:
        for name in names:
            key = f"{name.rpartition('.')[0]}.cls"
            if key not in source.places:
                raise InputError(f"{root} has no class for {name}: a .cls file beside it is needed")
            text = read(key).decode(errors="replace").strip()
            if not text.isdigit():
                raise InputError(f"{root}/{key} is {text[:20]!r}; allowed: the number of a class")
            labels.append(int(text))
    return Photographs(source, tuple(names), np.array(labels, dtype=np.int64), _classes(root, labels))


def _classes(root: Path, labels: list[int]) -> tuple[str, ...]:
    listed = root / "classes.txt"
    if not listed.is_file():
        return tuple(str(i) for i in range(max(labels) + 1))
    named = tuple(listed.read_text().splitlines())
    if max(labels) >= len(named):
        raise InputError(f"{root} holds class {max(labels)}; allowed by {listed}: 0 to {len(named) - 1}")
    return named


@dataclass(frozen=True)
class HubData:
    """A split of a Hugging Face data set."""

    shown: str
    rows: Any
    image: str  # columns
    label: str
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @contextmanager
    def opened(self) -> Iterator[Read]:
        def example(index: int) -> tuple[Image.Image, int]:
            row = self.rows[index]
            stored = row[self.image]
            data = stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()
            return decode_image(data, f"{self.shown}[{index}]"), int(row[self.label])

        yield example


def find_hub(data: str, split: str | None, known: Sequence[str]) -> HubData:
    """
    Raises:
        InputError: no such data set or split, or not one column of images and one of classes.
        NotAvailable: `datasets` is not installed, or the hub cannot be reached.
    """
    try:
        import datasets
    except ImportError:
        raise NotAvailable("hf: needs Hugging Face datasets: pip install 'foveate[hub]'") from None
    name = data.removeprefix(HUB)
    try:
        with no_waiting():
            found: Any = datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name)
    except ConnectionError as e:
        raise NotAvailable(f"cannot get {data}: no network, and not in the cache ({first_line(e)})") from None
    except Exception as e:  # datasets passes on whatever its hub, its readers or the file system raise
        raise InputError(f"cannot open {data}: {first_line(e)}") from None
    splits = list(found) if hasattr(found, "keys") else []
    tried = (split,) if split is not None else tuple(known)
    if not (there := [s for s in tried if s in splits]):
        raise InputError(f"{data} has no split {' or '.join(tried)}; it has: {', '.join(splits) or 'one alone'}")
    rows = found[there[0]]
    images = [k for k, f in rows.features.items() if isinstance(f, datasets.Image)]
    labels = [k for k, f in rows.features.items() if isinstance(f, datasets.ClassLabel)]
    if len(images) != 1 or len(labels) != 1:
        raise InputError(f"{data} has {len(images)} columns of images and {len(labels)} of classes; allowed: one each")
    rows = rows.cast_column(images[0], datasets.Image(decode=False))
    return HubData(f"{data}/{there[0]}", rows, images[0], labels[0], tuple(rows.features[labels[0]].names))

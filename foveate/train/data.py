"""Training images: the same batches in the same order whatever the number of processes, and after any interruption.

What happens to an image depends on (seed, epoch, its index) alone, so that neither the number of decoding processes nor
where a run was broken off changes a pixel.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from foveate.errors import InputError
from foveate.evaluate.sources import Source, open_source
from foveate.preprocess import SUFFIXES, Preprocess, decode_image
from foveate.train.shards import HUB, HubData, Shards, find_hub, find_shards

TRAIN, VAL = ("train", "training"), ("val", "valid", "validation", "test")
Key = tuple[int, int]  # epoch, index


class Examples(Protocol):
    """Photographs with their labels, by index."""

    @property
    def shown(self) -> str: ...

    def __len__(self) -> int: ...

    def opened(self) -> AbstractContextManager[Callable[[int], tuple[Image.Image, Any]]]:
        """A function from an index to a photograph and its label, for one process; InputError: it cannot be read."""
        ...


@dataclass(frozen=True)
class Photographs:
    """Names and classes of what lies in class folders. Nothing is decoded until it is needed."""

    source: Source
    names: tuple[str, ...]
    labels: np.ndarray  # int64 [S]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shown(self) -> str:
        return self.source.shown

    @contextmanager
    def opened(self) -> Iterator[Callable[[int], tuple[Image.Image, int]]]:
        with self.source.reader() as read:

            def example(index: int) -> tuple[Image.Image, int]:
                name = self.names[index]
                return decode_image(read(name), f"{self.shown}/{name}"), int(self.labels[index])

            yield example


Labelled = Photographs | Shards | HubData


class Batch(NamedTuple):
    images: Any  # [B 3 h w], or a list where sizes differ
    labels: Any  # [B] int64, masks [B h w] int64, or a list of masks
    indices: Tensor  # [B] int64
    bad: tuple[str, ...]  # what could not be read, and was replaced by the photograph after it


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


def find_labelled(data: str, split: str | None, known: Sequence[str]) -> Labelled:
    """A split of whatever `data` names: class folders, a .zip of them, shards, or a Hugging Face data set.

    Raises:
        InputError: no such split, or something wrong with it.
    """
    if data.startswith(HUB):
        return find_hub(data, split, known)
    return find_shards(data, split, known) or find_split(data, split, known)


def same_classes(train: Labelled, val: Labelled) -> None:
    """Raise InputError where the two splits differ in their classes."""
    if train.classes != val.classes:
        more = [f"{c} (in {s.shown} alone)" for s, o in ((train, val), (val, train))
                for c in s.classes if c not in o.classes]  # fmt: skip
        raise InputError(f"the splits differ in {len(more)} classes: {', '.join(more[:5])}")


class Samples(Dataset[tuple[Any, Any, int, str]]):
    """What a data loader draws from, by (epoch, index)."""

    def __init__(self, examples: Examples, transform: Callable[[Image.Image, Any], tuple[Any, Any]], seed: int) -> None:
        self.examples, self.transform, self.seed = examples, transform, seed
        self._read: Callable[[int], tuple[Image.Image, Any]] | None = None
        self._open = ExitStack()

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: Key) -> tuple[Any, Any, int, str]:
        epoch, index = key
        found, bad, at = None, "", index
        if self._read is None:  # in the process that decodes
            self._read = self._open.enter_context(self.examples.opened())
        while found is None:
            try:
                found = self._read(at)
            except InputError as e:
                bad, at = bad or str(e), (at + 1) % len(self)
                if at == index:
                    raise
        with seeded(self.seed, epoch, index):
            image, label = self.transform(*found)
        return image, label, index, bad

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_read": None, "_open": ExitStack()}


class seeded:  # reads as a statement
    """All of Python's, numpy's and torch's random numbers inside depend on these numbers alone."""

    def __init__(self, *numbers: int) -> None:
        self.seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])

    def __enter__(self) -> None:
        self.before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.seed(self.seed)
        np.random.seed(self.seed)
        torch.manual_seed(self.seed)

    def __exit__(self, *error: object) -> None:
        random.setstate(self.before[0])
        np.random.set_state(self.before[1])
        torch.set_rng_state(self.before[2])


def order(count: int, batch: int, *, seed: int, epoch: int) -> list[list[Key]]:
    """The batches of an epoch: a permutation, cut; the last images that fill no batch are left out of this epoch."""
    picks = np.random.default_rng([seed, epoch]).permutation(count)
    return [[(epoch, int(i)) for i in picks[at : at + batch]] for at in range(0, count - batch + 1, batch)]


def share(batches: list[list[Key]], part: int, parts: int) -> list[list[Key]]:
    """This process's part of every batch."""
    return [b[part * len(b) // parts : (part + 1) * len(b) // parts] for b in batches]


def loader(samples: Samples, batches: list[list[Key]], workers: int) -> Iterator[Batch]:
    """Batches in order, decoded by `workers` processes (0: by this one)."""
    made: DataLoader[Batch] = DataLoader(
        samples, batch_sampler=batches, num_workers=workers, collate_fn=collated,
        prefetch_factor=4 if workers else None, worker_init_fn=one_thread if workers else None,
    )  # type: ignore[arg-type]  # fmt: skip
    return iter(made)


def one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def collated(rows: list[tuple[Any, Any, int, str]]) -> Batch:
    images, labels, indices, bad = zip(*rows, strict=True)
    return Batch(_stacked(images), _stacked(labels), torch.tensor(indices), tuple(b for b in bad if b))


def _stacked(values: tuple[Any, ...]) -> Any:
    if isinstance(values[0], int):
        return torch.tensor(values)
    return torch.stack(values) if isinstance(values[0], Tensor) else list(values)


class LabelKept:
    """A transform of the photograph alone."""

    def __init__(self, transform: Callable[[Image.Image], Tensor]) -> None:
        self.transform = transform

    def __call__(self, image: Image.Image, label: Any) -> tuple[Tensor, Any]:
        return self.transform(image), label


class AsTensor:
    """`Preprocess` as a transform."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(self.preprocess(image))

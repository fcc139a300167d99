"""Training images: the same batches in the same order whatever the number of processes, and after any interruption.

What happens to an image depends on (seed, epoch, its index) alone, so that neither the number of decoding processes nor
where a run was broken off changes a pixel.
"""

import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing import AuthenticationError
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from foveate.errors import InputError
from foveate.hardware.device import usable_cpus
from foveate.preprocess import Preprocess
from foveate.train.examples import Examples

Key = tuple[int, int]  # epoch, index


class Batch(NamedTuple):
    images: Any  # [B 3 h w], or a list where sizes differ
    labels: Any  # [B] int64, masks [B h w] int64, or a list of masks
    indices: Tensor  # [B] int64
    bad: tuple[str, ...]  # what could not be read, and was replaced by the photograph after it


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
    """Batches in order, decoded by `workers` processes (0: by this one), no more than there are processors."""
    workers = min(workers, len(usable_cpus()))
    apart = torch.Generator().manual_seed(0)  # a loader draws a seed: from the run's numbers, resuming would shift them
    made: DataLoader[Batch] = DataLoader(
        samples, batch_sampler=batches, num_workers=workers, collate_fn=collated, generator=apart,
        prefetch_factor=4 if workers else None, worker_init_fn=begin_worker if workers else None,
    )  # type: ignore[arg-type]  # fmt: skip
    return iter(made)


# What the thread that hands a worker's tensors over prints where the process that asked ends in the midst of it. What
# goes wrong in reading photographs does not come this way: the loader carries it to its process.
HUNG_UP = (EOFError, OSError, AuthenticationError)


def begin_worker(worker: int) -> None:
    """One thread; a Ctrl-C is for the process that asked, which then ends this one."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    told = sys.excepthook
    sys.excepthook = lambda *raised: None if issubclass(raised[0], HUNG_UP) else told(*raised)


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

"""What a model is judged on: photographs as it sees them, their labels for its kind of output, and what it answers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from foveate.adapters import describe
from foveate.errors import InputError
from foveate.evaluate.data import Images, open_images
from foveate.evaluate.masks import Masked, find_masks
from foveate.evaluate.sources import VAL
from foveate.facts import Outputs
from foveate.loading.load import BUNDLED, Loaded
from foveate.target import Target

UNMASKED = "no masks were found: they are judged without labels"


@dataclass(frozen=True, eq=False)
class Sample:
    """Photographs, decoded.

    x: float32 [S 3 h w], preprocessed. labels: int64 [S], or for masks uint8 [S h w]; None without.
    """

    images: Images
    x: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, indices: Sequence[int] | np.ndarray) -> "Sample":
        """Those photographs, in that order."""
        at = np.asarray(indices, dtype=np.int64)
        return Sample(self.images.take(at), self.x[at], None if self.labels is None else self.labels[at])

    def split(self, share: float, seed: int = 0) -> tuple["Sample", "Sample"]:
        """(about `share` of them, the rest), as `Images.split` does."""
        first, rest = self.images.parts(share, seed)
        return self.take(first), self.take(rest)


def open_sample(
    data: str | Path | None, loaded: Loaded, outputs: Outputs | None = None, limit: int | None = None, seed: int = 0
) -> Sample:
    """`photographs`, decoded, with their masks where the model answers masks and `data` has any.

    Args:
        outputs: the kind of output; None: the model's.

    Raises:
        InputError: nothing there, or something wrong with a photograph, a mask or a label.
    """
    outputs = outputs or describe(loaded.model).outputs
    if outputs == "masks" and data is not None and (pairs := masked(data, loaded)) is not None:
        order = np.random.default_rng(seed).permutation(len(pairs))[:limit]
        x, masks = pairs.take(order).arrays(loaded.preprocess)
        note = f"{pairs.without} photographs without a mask are left out" if pairs.without else None
        return Sample(Images(pairs.source, pairs.take(order).names, note=note), x, masks)
    images = photographs(data, loaded, limit=limit, seed=seed, outputs=outputs)
    return Sample(images, images.decoded(loaded.preprocess), images.labels)


def photographs(
    data: str | Path | None, loaded: Loaded, *, limit: int | None, seed: int = 0, outputs: Outputs | None = None
) -> Images:
    """The user's photographs, or the bundled ones, with the labels that a kind of output can be judged by.

    A classifier's are its own classes: photographs of other things than it knows (bundled clothing, for an ImageNet
    model) come without labels. An embedding's are whatever the folders are called: only alike and unlike count. Masks
    are no labels of whole photographs: see `open_sample`.
    """
    outputs = outputs or describe(loaded.model).outputs
    if outputs == "embedding":
        return open_images(data, own_classes=True, limit=limit, seed=seed)
    if outputs == "masks":
        images = open_images(data, unlabelled=True, limit=limit, seed=seed)
        return replace(images, note=None if data is None else UNMASKED)
    known = loaded.classes if loaded.classes is not None else describe(loaded.model).classes
    if known == 1 or (not isinstance(known, int) and len(known) == 1):
        known = 2  # one logit stands for two classes, no and yes
    unlabelled = data is None and loaded.ref.name != BUNDLED
    return open_images(data, classes=known, limit=limit, seed=seed, unlabelled=unlabelled)


def masked(data: str | Path, loaded: Loaded) -> Masked | None:
    """The photographs of a validation split with a mask each; None where `data` holds no masks at all.

    Raises:
        InputError: masks lie there, but not where they are known to lie.
    """
    count = max(2, describe(loaded.model).classes)
    try:
        return find_masks(data, None, VAL, classes=count)
    except InputError:
        images = open_images(data, unlabelled=True, limit=1)
        folders = {part for name in images.source.names() for part in name.split("/")[:-1]}
        if any(folder == "annotations" or folder.endswith("annot") for folder in folders):
            raise  # or the masks themselves would be taken for photographs
        return None


@contextmanager
def on_device(model: nn.Module, device: str) -> Iterator[nn.Module]:
    """The model with its weights on `device` as long as this lasts; on the CPU again after."""
    try:
        yield model.to(device)
    finally:
        model.to(Target().device)


def reference_outputs(model: nn.Module, images: np.ndarray, chunk: int = 16) -> np.ndarray:
    """What the user's own model answers in torch, float32 [S ...] of any kind.

    Args:
        model: on any device; every `chunk` of images is moved to its parameters'.
    """
    import torch

    first = next(model.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    found = np.empty(0, dtype=np.float32)
    with torch.inference_mode():
        for at in range(0, len(images), chunk):
            answer = model(torch.tensor(images[at : at + chunk]).to(device)).float().cpu().numpy()
            if not at:
                found = np.empty((len(images), *answer.shape[1:]), dtype=np.float32)
            found[at : at + chunk] = answer
    return found

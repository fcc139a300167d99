"""What a task's labels are: where they come from, the form that losses take them in, and how answers are judged."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from foveate.errors import InputError
from foveate.evaluate.iou import confusion, mean_iou
from foveate.evaluate.masks import find_masks
from foveate.evaluate.sources import TRAIN, VAL
from foveate.evaluate.windows import segment
from foveate.preprocess import Preprocess
from foveate.train.data import AsTensor, LabelKept, seeded
from foveate.train.examples import Classified, Examples, find_loose, find_split, same_classes
from foveate.train.parts import augmented, augmented_masks, mix_of
from foveate.train.recipe import Recipe
from foveate.train.shards import HUB, find_hub, find_shards
from foveate.train.tasks import outputs

Tally = dict[str, Tensor]  # a classifier's counts, which are added over batches and processes


class Goal(ABC):
    """Abstract; goals are final. Opened on the main values of a recipe."""

    figure: str  # what validation measures, in %
    train: Examples
    val: Examples
    count: int  # of classes
    classes: tuple[str, ...] | None  # their names

    def __init__(self, recipe: Recipe) -> None:
        data = os.path.expandvars(recipe.data)
        if "$" in data:
            raise InputError(f"data is {recipe.data}: a variable in it is not set")
        self.recipe = recipe
        self.open(data)

    @abstractmethod
    def open(self, data: str) -> None: ...

    @abstractmethod
    def transforms(self, preprocess: Preprocess) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Of a training example and of one that is judged: (image, label) -> (tensor, label)."""

    @abstractmethod
    def mixed(self, images: Tensor, labels: Tensor, *seed: int) -> tuple[Tensor, Tensor]:
        """A training batch as the task's losses take it."""

    @abstractmethod
    def judge(self, model: nn.Module, image: Any, label: Any, preprocess: Preprocess, device: Any) -> Tally: ...

    @abstractmethod
    def score(self, tally: Tensor) -> float:
        """In %."""


@final
class Classes(Goal):
    """One class a photograph, by its folder."""

    figure = "top-1"

    def open(self, data: str) -> None:
        train, val = find_labelled(data, self.recipe.train, TRAIN), find_labelled(data, self.recipe.val, VAL)
        same_classes(train, val)
        self.train, self.val, self.classes, self.count = train, val, train.classes, len(train.classes)
        self.mix = mix_of(self.recipe, self.count)

    def transforms(self, preprocess: Preprocess) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return LabelKept(augmented(self.recipe, preprocess)), LabelKept(AsTensor(preprocess))

    def mixed(self, images: Tensor, labels: Tensor, *seed: int) -> tuple[Tensor, Tensor]:
        if self.mix is None:
            return images, nn.functional.one_hot(labels, self.count).float()
        with seeded(*seed):
            return self.mix(images, labels)

    def judge(self, model: nn.Module, image: Any, label: Any, preprocess: Preprocess, device: Any) -> Tally:
        """A batch."""
        hits = {name: (y.argmax(1).cpu() == label).sum() for name, y in outputs(model(image.to(device))).items()}
        return {name: torch.stack([hit, torch.tensor(len(label))]) for name, hit in hits.items()}

    def score(self, tally: Tensor) -> float:
        return 100 * float(tally[0] / tally[1])


@final
class Likeness(Goal):
    """As a teacher answers: the same class, or for an embedding in the same direction. Labels are not looked at."""

    figure = "agreement"

    def open(self, data: str) -> None:
        self.train, self.val = find_loose(data, self.recipe.train, self.recipe.val)
        self.count = int(self.recipe.options["num_classes"])  # type: ignore[arg-type]
        self.task: Any = self.recipe.task
        self.classes = self.task.names
        if self.recipe.augment.mixup or self.recipe.augment.cutmix:
            raise InputError("MixUp and CutMix mix labels; a task that looks at none cannot have them: set both to 0")

    def transforms(self, preprocess: Preprocess) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return LabelKept(augmented(self.recipe, preprocess)), LabelKept(AsTensor(preprocess))

    def mixed(self, images: Tensor, labels: Tensor, *seed: int) -> tuple[Tensor, Tensor]:
        return images, labels

    def judge(self, model: nn.Module, image: Any, label: Any, preprocess: Preprocess, device: Any) -> Tally:
        """A batch."""
        image = image.to(device)
        found, wanted = model(image).float(), self.task.answers(image).float()
        if self.task.embedding:
            alike = nn.functional.cosine_similarity(found, wanted, dim=-1)
        else:
            alike = (found.argmax(1) == wanted.argmax(1)).float()
        return {"teacher": torch.stack([alike.sum().cpu(), torch.tensor(float(len(image)))])}

    def score(self, tally: Tensor) -> float:
        return 100 * float(tally[0] / tally[1])


@final
class Regions(Goal):
    """A class a pixel: learnt in crops of the window's size, judged on whole photographs by a sliding window."""

    figure = "mIoU"
    classes = None

    def open(self, data: str) -> None:
        if self.recipe.augment.mixup or self.recipe.augment.cutmix:
            raise InputError("MixUp and CutMix mix photographs of one class each; masks cannot be mixed: set both to 0")
        self.count = self.recipe.task.classes or 0
        self.train = find_masks(data, self.recipe.train, TRAIN, classes=self.count)
        self.val = find_masks(data, self.recipe.val, VAL, classes=self.count)

    def transforms(self, preprocess: Preprocess) -> tuple[Callable[..., Any], Callable[..., Any]]:
        return augmented_masks(self.recipe, preprocess), untouched

    def mixed(self, images: Tensor, labels: Tensor, *seed: int) -> tuple[Tensor, Tensor]:
        return images, labels

    def judge(self, model: nn.Module, image: Any, label: Any, preprocess: Preprocess, device: Any) -> Tally:
        """A batch of photographs of their own sizes, one by one."""
        total = np.zeros((self.count, self.count), np.int64)
        for photo, mask in zip(image, label, strict=True):
            found = segment(lambda x: model(x.to(device)), photo, preprocess)
            total += confusion(found, mask, self.count)
        return {"mask": torch.from_numpy(total)}

    def score(self, tally: Tensor) -> float:
        return mean_iou(tally.numpy())


def find_labelled(data: str, split: str | None, known: Sequence[str]) -> Classified:
    """A split of whatever `data` names: class folders, a .zip of them, shards, or a Hugging Face data set.

    Raises:
        InputError: no such split, or something wrong with it.
    """
    if data.startswith(HUB):
        return find_hub(data, split, known)
    return find_shards(data, split, known) or find_split(data, split, known)


def untouched(image: Any, mask: Any) -> tuple[Any, Any]:
    return image, mask


def goal_of(recipe: Recipe) -> Goal:
    if not recipe.task.labelled:
        return Likeness(recipe)
    return (Classes if recipe.task.classes is None else Regions)(recipe)

"""What is trained, on what, and how: one value, made by a Python file.

A recipe file's docstring states cost and expected result; its `recipe` is the value, or a function without arguments
that returns it. Words on the command line (`epochs=3 augment.mixup=0`) change it before anything starts.
"""

import ast
import hashlib
import json
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from foveate.errors import InputError
from foveate.plans import Kwarg
from foveate.train.tasks import Classify, Task

Precision = Literal["fp32", "bf16"]


class Augment(BaseModel):
    """What happens to training images, by timm's `create_transform` and `Mixup`; with masks, by torchvision's v2."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: tuple[float, float] = (0.08, 1.0)  # area of the random crop
    zoom: tuple[float, float] = (0.5, 2.0)  # of masks: the short side before the crop, in windows
    flip: float = Field(default=0.5, ge=0, le=1)
    color_jitter: float = Field(default=0.4, ge=0)
    auto_augment: str | None = None  # as timm writes it: "rand-m9-mstd0.5"
    erase: float = Field(default=0.0, ge=0, le=1)
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)


class Recipe(BaseModel):
    """One training run. Everything but `model` and `task` is a plain value, and part of the run's fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    model: str | Callable[[int], nn.Module]  # timm name, or number of classes -> model
    options: dict[str, Kwarg] = {}  # of the timm model
    start: Callable[[nn.Module], None] | None = None  # puts weights to start from into the model that was built
    data: str  # folder or .zip with train/ and val/ (or as below), or train.shards; $FOVEATE_DATA/... is expanded
    train: str | None = None  # folder inside `data`; by default the first of train, training
    val: str | None = None  # by default the first of val, valid, validation, test
    task: Task = Field(default_factory=Classify)
    image_size: int = Field(default=224, ge=8)
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)  # images an optimiser step, over all processes and accumulated parts
    accumulate: int = Field(default=1, ge=1)  # parts a step is divided into
    optimizer: str = "adamw"  # as timm calls it
    lr: float = Field(gt=0)
    min_lr: float = Field(default=1e-6, ge=0)
    warmup_epochs: int = Field(default=0, ge=0)
    schedule: str = "cosine"  # as timm calls it
    weight_decay: float = Field(default=0.05, ge=0)
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    clip: float | None = Field(default=1.0, gt=0)  # of the gradient's norm
    ema: float | None = Field(default=None, gt=0, lt=1)  # decay of the weights' average, which is validated and kept
    precision: Precision = "bf16"
    augment: Augment = Field(default_factory=Augment)  # type: ignore[arg-type]
    seed: int = 0
    workers: int = Field(default=2, ge=0)  # processes that decode, for each training process
    validate_every: int = Field(default=1, ge=1)  # epochs
    unreadable: float = Field(default=0.01, ge=0, le=1)  # share of training images that may fail to decode

    def fingerprint(self) -> str:
        """Names what a checkpoint of this run can be resumed by: any change of a value changes it."""
        plain = self.model_dump(mode="json", exclude={"model", "start", "task", "workers"})
        plain["model"] = (
            self.model if isinstance(self.model, str) else getattr(self.model, "__qualname__", "a function")
        )
        plain["start"] = getattr(self.start, "__qualname__", None if self.start is None else "a function")
        plain["task"] = repr(self.task)
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def load_recipe(path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, with `changes` such as "epochs=3" or "augment.mixup=0.2".

    Raises:
        InputError: no such file, no recipe in it, or a change that names or holds what is not allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"recipe {path}: no such file")
    found = runpy.run_path(str(path)).get("recipe")
    recipe = found() if callable(found) and not isinstance(found, Recipe) else found
    if not isinstance(recipe, Recipe):
        raise InputError(f"{path} has no `recipe`: a foveate.train.Recipe, or a function that returns one")
    return changed(recipe, changes)


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    values: dict[str, Any] = {name: getattr(recipe, name) for name in type(recipe).model_fields}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"{change!r} is no change of a recipe; allowed: key=value, such as epochs=3")
        first, dot, rest = key.partition(".")
        if first not in values or (dot and (first != "augment" or rest not in Augment.model_fields)):
            known = [*values, *(f"augment.{name}" for name in Augment.model_fields)]
            raise InputError(f"unknown key {key!r} of a recipe; known: {', '.join(sorted(known))}")
        if first in ("task", "model", "start") and not isinstance(values[first], str):
            raise InputError(f"{first} of this recipe is Python, which a word cannot replace: edit the file")
        value = _value(text)
        values[first] = values[first].model_dump() | {rest: value} if dot else value
    try:
        return Recipe(**values)
    except ValidationError as e:
        wrong = e.errors()[0]
        where = ".".join(map(str, wrong["loc"]))
        raise InputError(f"recipe: {where} is {wrong['input']!r:.80}: {wrong['msg']}") from None


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)

"""How good a fitted folder is, in its own runtime, or a model in torch, by its kind of output."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from foveate.adapters import describe
from foveate.artefact import Artefact
from foveate.commands.answering import answering
from foveate.commands.segment import mean_overlap
from foveate.errors import InputError, one_of
from foveate.evaluate import make_judge, open_images
from foveate.evaluate.answers import photographs
from foveate.evaluate.judges.showing import check_shape
from foveate.facts import Outputs
from foveate.fitting.stages import Progress
from foveate.hardware.device import device_facts
from foveate.loading.load import Loaded, load
from foveate.preprocess import Preprocess
from foveate.result import Result, Tag

TASKS: dict[Outputs, str] = {"classes": "classification", "embedding": "embedding", "masks": "segmentation"}


def evaluate(
    target: str | Path | nn.Module,
    *,
    task: str | None = None,
    data: str | Path | None = None,
    split: str | None = None,
    weights: str | Path | None = None,
    random_weights: bool = False,
    allow_pickle: bool = False,
    images: int = 100_000,
    threads: int | None = None,
    trust: bool = False,
    page: str | Path | None = None,
    progress: Progress = lambda stage, share, text: None,
    say: Callable[[Iterable[str]], None] = lambda lines: None,
    outputs: str | None = None,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    **model_kwargs: Any,
) -> Result:
    """Top-1, leave-one-out kNN accuracy of vectors, or the mean IoU of masks, with its 95 % interval.

    Args:
        target: a folder that was fitted, exported or trained, a model's name, or a model.
        task: what the model is expected to do; by default what its kind of output says.
        data: the bundled photographs by default; masks have to be given (`foveate.evaluate.masks`). The labels of
            vectors are the folders, whatever they are called.
        split: of the masks: by default the first of val, validation, test.
        page: a page to write, with what was found on some of the photographs (segmentation).
        trust: open a built model whose file is a program (`Artefact`).
        say: gets what was done to fit the weights to the model.
        outputs, preprocess, model_kwargs: of a model that is named, as `load` takes them.

    Raises:
        InputError: where the photographs have no labels, the target is neither a folder nor a known model, or its
            outputs are not for the task.
    """
    if task is not None and task not in TASKS.values():
        raise one_of("task", task, TASKS.values())
    opened: Artefact | Loaded
    if not isinstance(target, nn.Module) and (Path(target) / "plan.json").is_file():
        own = {"outputs": outputs, "preprocess": preprocess}
        if given := [*(name for name, value in own.items() if value is not None), *model_kwargs]:
            raise InputError(f"{target} is a model that was built; allowed beside it: no {', '.join(given)}")
        opened = Artefact(target, threads=threads, trust=trust)
        tags: dict[str, Tag] = {"runtime": opened.plan.target.runtime, "precision": opened.plan.target.precision}
    else:
        opened = load(
            target if isinstance(target, nn.Module) else str(target), weights=weights, random_weights=random_weights,
            allow_pickle=allow_pickle, outputs=outputs, preprocess=preprocess, **model_kwargs,
        )  # fmt: skip
        say(opened.said)
        tags = {"runtime": "torch", "precision": "fp32"}
    tags["target"] = type(target).__name__ if isinstance(target, nn.Module) else str(target)
    kind = opened.outputs if isinstance(opened, Artefact) else describe(opened.model).outputs
    if task not in (None, TASKS[kind]):
        raise InputError(f"--task {task}: {target} answers with {kind}; allowed: --task {TASKS[kind]}")
    for option, value in (("--page", page), ("--split", split)):
        if value is not None and kind != "masks":
            raise InputError(f"{option} {value}: {target} answers with {kind}; allowed: with masks")
    path = None if data is None else Path(data)
    if kind == "masks":
        result = mean_overlap(opened, path, split, images, page, progress)
    else:
        result = _score(opened, kind, path, images)
    facts = {k: v for k, v in device_facts().items() if isinstance(v, str | int | float | bool)}
    return result.model_copy(update={"tags": result.tags | tags, "origin": facts})


def _score(opened: Artefact | Loaded, kind: Outputs, data: Path | None, limit: int) -> Result:
    answer, preprocess = answering(opened)
    shape = answer(np.zeros((1, preprocess.channels, *preprocess.size), np.float32)).shape
    check_shape(kind, shape, opened.classes)
    if isinstance(opened, Loaded):
        photos = photographs(data, opened, limit=limit)
    elif kind == "embedding":
        photos = open_images(data, own_classes=True, limit=limit)
    else:
        one = shape[1] == 1 and len(opened.classes or ()) < 2  # logit, and no names for both its answers
        photos = open_images(data, classes=2 if one else opened.classes or shape[1], limit=limit)
    if photos.labels is None:
        raise InputError(f"{data} has no labels: class sub-folders or a labels.csv (file,label) are needed")
    found = answer(photos.array(preprocess))
    score = make_judge(kind, found, photos.labels).quality(found).score
    assert score is not None
    return score

"""Top-1 or mIoU of a fitted folder, in its own runtime, or of a model in torch."""

from pathlib import Path

from foveate.adapters import describe
from foveate.artefact import Artefact
from foveate.commands.segment import mean_overlap
from foveate.errors import InputError, one_of
from foveate.evaluate import open_images
from foveate.evaluate.metrics import accuracy
from foveate.fitting.bench import answering, photographs
from foveate.fitting.stages import Progress
from foveate.hardware.device import device_facts
from foveate.loading.load import Loaded, load
from foveate.result import Result, Tag

TASKS = ("classification", "segmentation")


def evaluate(
    target: str | Path,
    *,
    task: str = "classification",
    data: str | Path | None = None,
    split: str | None = None,
    weights: str | Path | None = None,
    random_weights: bool = False,
    allow_pickle: bool = False,
    images: int = 100_000,
    threads: int | None = None,
    page: str | Path | None = None,
    progress: Progress = lambda stage, share, text: None,
) -> Result:
    """Accuracy, or the mean IoU of masks, with its 95 % interval on labelled photographs.

    Args:
        target: a folder that was fitted, exported or trained, or a model's name.
        data: the bundled photographs by default; masks have to be given (`foveate.evaluate.masks`).
        split: of the masks: by default the first of val, validation, test.
        page: a page to write, with what was found on some of the photographs (segmentation).

    Raises:
        InputError: where the photographs have no labels, or the target is neither a folder nor a known model.
    """
    if task not in TASKS:
        raise one_of("task", task, TASKS)
    opened: Artefact | Loaded
    if (Path(target) / "plan.json").is_file():
        opened = Artefact(target, threads=threads)
        tags: dict[str, Tag] = {"runtime": opened.plan.target.runtime, "precision": opened.plan.target.precision}
    else:
        opened = load(str(target), weights=weights, random_weights=random_weights, allow_pickle=allow_pickle)
        tags = {"runtime": "torch", "precision": "fp32"}
    tags["target"] = str(target)
    path = None if data is None else Path(data)
    if task == "segmentation":
        result = mean_overlap(opened, path, split, images, page, progress)
    else:
        result = _top1(opened, path, images)
    facts = {k: v for k, v in device_facts().items() if isinstance(v, str | int | float | bool)}
    return result.model_copy(update={"tags": result.tags | tags, "origin": facts})


def _top1(opened: Artefact | Loaded, data: Path | None, limit: int) -> Result:
    if isinstance(opened, Artefact):
        photos = open_images(data, classes=opened.classes, limit=limit)
    else:
        if describe(opened.model).decoder:
            raise InputError(f"{opened.ref.name} draws masks; allowed: --task segmentation")
        photos = photographs(data, opened, limit=limit)
    if photos.labels is None:
        raise InputError(f"{data} has no labels: class sub-folders or a labels.csv (file,label) are needed")
    answer, preprocess = answering(opened)
    return accuracy(answer(photos.array(preprocess)), photos.labels)

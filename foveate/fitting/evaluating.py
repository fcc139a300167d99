"""Top-1 of a fitted folder, in its own runtime, or of a model in torch."""

from pathlib import Path

from foveate.adapters.load import load
from foveate.artefact import Artefact
from foveate.errors import InputError
from foveate.evaluate import open_images
from foveate.evaluate.metrics import accuracy
from foveate.fitting.bench import photographs, reference_logits
from foveate.hardware.device import device_facts
from foveate.result import Result


def evaluate(
    target: str | Path,
    *,
    data: str | Path | None = None,
    weights: str | Path | None = None,
    random_weights: bool = False,
    allow_pickle: bool = False,
    images: int = 100_000,
    threads: int | None = None,
) -> Result:
    """Accuracy with its 95 % interval on labelled photographs (the bundled ones by default).

    Raises:
        InputError: where the photographs have no labels, or the target is neither a folder nor a known model.
    """
    path = None if data is None else Path(data)
    if Path(target).is_dir():
        artefact = Artefact(target, threads=threads)
        photos = open_images(path, classes=artefact.classes, limit=images)
        answer = artefact(photos.array(artefact.preprocess))
        tags = {"target": str(target), "runtime": artefact.plan.runtime, "precision": artefact.plan.precision}
    else:
        loaded = load(str(target), weights=weights, random_weights=random_weights, allow_pickle=allow_pickle)
        photos = photographs(path, loaded, limit=images)
        answer = reference_logits(loaded.model, photos.array(loaded.preprocess))
        tags = {"target": str(target), "runtime": "torch", "precision": "fp32"}
    if photos.labels is None:
        raise InputError(f"{data} has no labels: class sub-folders or a labels.csv (file,label) are needed")
    facts = {k: v for k, v in device_facts().items() if isinstance(v, str | int | float | bool)}
    return accuracy(answer, photos.labels).model_copy(update={"tags": tags, "origin": facts})

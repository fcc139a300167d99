"""Build a written plan again, for its own runtime or for another."""

from pathlib import Path
from typing import Any

from foveate.artefact import check_target, export, read_card, write_gallery
from foveate.errors import InputError, one_of
from foveate.evaluate.answers import photographs
from foveate.evaluate.gallery import Gallery
from foveate.loading.load import load
from foveate.plans import Plan
from foveate.preprocess import Preprocess
from foveate.runtimes import RUNTIMES
from foveate.target import Target

CALIBRATION = 128  # images behind an int8 calibration


def export_plan(
    plan: Plan | str | Path,
    *,
    weights: str | Path | None = None,
    allow_pickle: bool = False,
    runtime: str | None = None,
    precision: str | None = None,
    batch: int | None = None,
    data: str | Path | None = None,
    out: str | Path = "foveate-export",
) -> Path:
    """Load the plan's model, reduce it as the plan says and write a deployable folder.

    A gallery beside the plan goes along where the precision stays, and with it the vectors but for their last digits.

    Raises:
        InputError: for an unknown or unavailable runtime, or weights that are not those the plan was made for.
    """
    beside = None if isinstance(plan, Plan) else Path(plan)
    plan = plan if isinstance(plan, Plan) else Plan.load(plan)
    was = plan.target.precision
    if runtime is not None and runtime not in RUNTIMES:
        raise one_of("runtime", runtime, RUNTIMES)
    changes = {k: v for k, v in {"runtime": runtime, "precision": precision, "batch": batch}.items() if v is not None}
    plan = plan.model_copy(update={"target": Target.of(**(plan.target.model_dump() | changes))})
    check_target(plan.target)
    ref = plan.model
    kwargs: dict[str, Any] = dict(ref.kwargs)
    if ref.weights == "object":
        raise InputError(
            f"the plan was made for a {ref.name} object, which its own program has: foveate.export(model, plan, ...)"
        )
    if ref.weights == "file" and weights is None:
        raise InputError(f"the plan was made for weights from a file; name it with --weights (sha256 {ref.sha256})")
    loaded = load(
        ref.name, weights=weights, random_weights=ref.weights == "random", allow_pickle=allow_pickle,
        preprocess=_preprocess_beside(beside), classes=_classes_beside(beside), **kwargs,
    )  # fmt: skip
    if ref.sha256 is not None and loaded.ref.sha256 != ref.sha256:
        raise InputError(f"these are not the plan's weights: sha256 {loaded.ref.sha256}, the plan says {ref.sha256}")
    calibration = None
    if plan.target.precision == "int8":
        photos = photographs(data, loaded, limit=CALIBRATION)
        calibration = photos.array(loaded.preprocess)
    folder = export(
        loaded.model, plan, out, preprocess=loaded.preprocess, classes=loaded.classes, note=loaded.note,
        calibration=calibration,
    )  # fmt: skip
    if beside is not None and plan.target.precision == was:
        _take_gallery(beside if beside.is_dir() else beside.parent, folder)
    return folder


def _preprocess_beside(plan: Path | None) -> Preprocess | None:
    """What was written with the plan: it may differ from the weights' own."""
    folder = _folder(plan)
    return None if folder is None or not (file := folder / "preprocess.json").is_file() else Preprocess.load(file)


def _classes_beside(plan: Path | None) -> tuple[str, ...] | None:
    """Class names as they were written with the plan: the user may have given them."""
    folder = _folder(plan)
    return None if folder is None or not (folder / "model.json").is_file() else read_card(folder).classes


def _folder(plan: Path | None) -> Path | None:
    return None if plan is None else plan if plan.is_dir() else plan.parent


def _take_gallery(source: Path, folder: Path) -> None:
    if (source / "model.json").exists() and (card := read_card(source)).gallery is not None:
        write_gallery(folder, card.gallery, Gallery.load(source, card.gallery).vectors)

"""What a folder that was fitted answers to photographs, as a person is shown it, by the kind of output."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foveate.artefact import Artefact
from foveate.errors import InputError
from foveate.evaluate import open_images
from foveate.evaluate.gallery import Gallery
from foveate.evaluate.judges import shown
from foveate.evaluate.judges.showing import check_shape, pixel_shares
from foveate.files import replacing
from foveate.preprocess import read_image

Progress = Callable[[str, float, str], None]


def answer(
    artefact: Artefact,
    photos: Sequence[Path],
    *,
    gallery: Path | None = None,
    out: Path | None = None,
    k: int = 5,
    progress: Progress = lambda stage, share, text: None,
) -> list[dict[str, Any]]:
    """A row a photograph: `image`, `latency_ms` of one call of the model, and by kind of output
    classes: `top`, the `k` likeliest with their probabilities;
    embedding: `norm` of the vector and, with a gallery, `nearest`, the `k` photographs with the largest cosine;
    masks: `shares` of the pixels by class and, with `out`, `mask`, the file written.

    Args:
        gallery: photographs to compare with, in the place of those beside the model.
        out: folder for a PNG of classes a photograph, as large as the photograph.

    Raises:
        InputError: an option of another kind of output, or photographs that cannot be read.
    """
    kind = artefact.outputs
    for option, value, of in (("--gallery", gallery, "embedding"), ("--out", out, "masks")):
        if value is not None and kind != of:
            raise InputError(f"{option} {value}: {artefact.folder} answers with {kind}; allowed: with {of}")
    held = embedded(artefact, gallery, progress) if gallery else artefact.gallery if kind == "embedding" else None
    rows = []
    for i, (photo, (found, ms)) in enumerate(zip(photos, artefact.timed(photos), strict=True)):
        check_shape(kind, (1, *found.shape), artefact.classes)
        row: dict[str, Any] = {"image": str(photo), "latency_ms": round(ms, 3)}
        if kind == "classes":
            row["top"] = shown(kind, found, artefact.classes, k)
        elif kind == "embedding":
            row["norm"] = float(np.linalg.norm(found))
            if held is not None:
                row["nearest"] = [{"name": name, "cosine": cosine} for name, cosine in held.nearest(found, k)]
        else:
            mask = _segmented(artefact, photo)
            row["shares"] = [{"class": n, "share": s} for n, s in pixel_shares(mask, len(found), artefact.classes)]
            if out is not None:
                row["mask"] = str(_write_mask(out / f"{i:03}_{photo.stem}.png", mask, len(found)))
            progress("run", (i + 1) / len(photos), f"{i + 1} of {len(photos)} photographs")
        rows.append(row)
    return rows


def embedded(artefact: Artefact, data: Path, progress: Progress) -> Gallery:
    """The photographs of a folder or .zip, as the model embeds them."""
    photos, parts, done = open_images(data, unlabelled=True), [], 0
    for part in photos.batches(artefact.preprocess, 32):
        parts.append(artefact(part))
        done += len(part)
        progress("gallery", done / len(photos), f"{done} of {len(photos)} photographs")
    return Gallery(photos.names, np.concatenate(parts))


def _segmented(artefact: Artefact, photo: Path) -> np.ndarray:
    """The class of every pixel, uint8 [h w]: the model's window slides over the whole photograph."""
    import torch

    from foveate.evaluate.windows import segment

    high, wide = artefact.preprocess.size
    if high != wide:
        raise InputError(f"{artefact.folder} sees {high} x {wide} pixels; allowed for masks of photographs: a square")
    return segment(
        lambda x: torch.from_numpy(artefact(x.numpy())),
        read_image(photo, channels=artefact.preprocess.channels),
        artefact.preprocess,
    )


def _write_mask(path: Path, mask: np.ndarray, classes: int) -> Path:
    """A PNG whose values are the classes, in the colours of the reports."""
    from foveate.report.masks import mask_image

    with replacing(path) as part:
        mask_image(mask, classes).save(part, "PNG")
    return path

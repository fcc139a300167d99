"""What a plan keeps of some photographs, with the answers before and after."""

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image

from foveate.adapters import adapt
from foveate.evaluate.evidence import Answers
from foveate.evaluate.judges import shown
from foveate.evaluate.judges.embedding import NEIGHBOURS
from foveate.evaluate.judges.showing import drawn
from foveate.fitting.bench import Seat
from foveate.fitting.case import Case, Look
from foveate.report.masks import coloured
from foveate.written import Overlays, Photo

COUNT = 4


def overlays(case: Case, dense: Seat, given: Seat, dense_look: Look, look: Look, count: int = COUNT) -> Overlays:
    """What was kept at each reducing block, for `count` unseen photographs; the looks are of all unseen ones."""
    reduced = adapt(case.model, given.build.plan.steps).eval()
    photos = []
    for i in range(min(count, len(case.unseen))):
        x = case.unseen.x[i : i + 1]
        with torch.inference_mode():
            maps = reduced.trace(torch.from_numpy(x.copy()))
        before, after = (
            _answer(seat.bench.outputs(seat.label, x)[0], side, found.answers, i, case)
            for seat, side, found in ((dense, "dense", dense_look), (given, "reduced", look))
        )
        photos.append(
            Photo(
                name=case.unseen.sample.images.names[i],
                jpeg_base64=jpeg(seen(x[0], case)),
                blocks={b: m[0].tolist() for b, m in maps.items()},
                **before,
                **after,
            )
        )
    return Overlays(grid=case.facts.grid, images=tuple(photos))


def _answer(output: np.ndarray, side: str, answers: Answers, at: int, case: Case) -> dict[str, Any]:
    """One output [...] for people, as the fields of `Photo` for that side ("dense" or "reduced")."""
    kind = case.facts.outputs
    if kind == "embedding":
        stay = round(NEIGHBOURS * (1 - float(answers.changed[at])))
        return {f"{side}_said": f"cosine {1 - answers.distance[at]:.4f}, {stay} of {NEIGHBOURS} neighbours stay"}
    if kind == "masks":
        picture = coloured(drawn(output), max(2, len(output)))
        return {f"{side}_mask": base64.b64encode(picture).decode()}
    return {side: tuple(shown(kind, output, case.loaded.classes, 3))}


def seen(x: np.ndarray, case: Case) -> Image.Image:
    """What the model saw, crop and all, so that the grid lies where it lay; x [channels h w] preprocessed."""
    preprocess = case.loaded.preprocess
    mean, std = (np.asarray(v)[:, None, None] for v in (preprocess.mean, preprocess.std))
    pixels = ((x * std + mean) * 255).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(pixels[..., 0] if len(x) == 1 else pixels[..., :3])  # grey; or without what is not seen


def jpeg(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode()

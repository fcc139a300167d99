"""Mean IoU of a model that draws masks, in its own runtime or in torch, and a page to look at."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foveate.artefact import Artefact
from foveate.commands.answering import answering
from foveate.errors import InputError
from foveate.evaluate.iou import Overlap, iou
from foveate.evaluate.masks import find_masks
from foveate.evaluate.sources import VAL
from foveate.evaluate.windows import segment
from foveate.fitting.stages import Progress
from foveate.loading.load import Loaded
from foveate.report.masks import laid_over, pane, write_masks
from foveate.result import Result

DRAWN = 6  # photographs in the page


def mean_overlap(
    opened: Artefact | Loaded,
    data: Path | None,
    split: str | None,
    limit: int,
    page: str | Path | None,
    progress: Progress,
) -> Result:
    """Every photograph of the split, the window sliding over it.

    Raises:
        InputError: no photographs with masks, or a model that draws none.
    """
    if data is None:
        raise InputError("segmentation needs --data: a folder or .zip of photographs with masks")
    answer, preprocess = answering(opened)
    window = preprocess.size
    shape = answer(np.zeros((1, preprocess.channels, *window), np.float32)).shape
    if len(shape) != 4 or shape[2:] != window or window[0] != window[1]:
        raise InputError(f"this model answers an image of {window} with {shape}; segmentation needs masks of its size")
    classes = max(2, shape[1])
    pairs = find_masks(data, split, VAL, classes=classes)
    run: Callable[[Tensor], Tensor] = lambda x: torch.from_numpy(answer(x.numpy()))
    overlap, rows, count = Overlap(classes), [], min(limit, len(pairs))
    drawn = set(np.linspace(0, count - 1, min(DRAWN, count)).astype(int).tolist()) if page else set()
    with pairs.opened() as read:
        for i in range(count):
            image, mask = read(i)
            found = segment(run, image, preprocess)
            overlap.add(found, mask)
            progress("evaluate", (i + 1) / count, f"{i + 1} of {count} photographs")
            if i in drawn:
                name = Path(pairs.names[i]).name
                views = (("photograph", image), ("true", laid_over(image, mask, classes)),
                         ("found", laid_over(image, found, classes)))  # fmt: skip
                rows.append([pane(name, caption, view) for caption, view in views])
    result = overlap.result(tags={"data": str(data), "window": window[0], "without_mask": pairs.without})
    if page is not None:
        write_masks(page, result, iou(np.sum(overlap.counts, axis=0)).tolist(), rows)
    return result

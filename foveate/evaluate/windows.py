"""Masks of photographs of any size from a model of one window: the window slides, and where it overlaps, logits are
averaged (MMSegmentation's `slide` mode, the protocol of Segmenter's and ViTTM's published figures).
"""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from foveate.errors import InputError
from foveate.preprocess import Preprocess

Run = Callable[[Tensor], Tensor]  # [1 3 w w] -> [1 classes w w]


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side: every `stride`, the last one flush with the end."""
    if not 1 <= stride <= window:
        raise InputError(f"stride is {stride}; allowed: 1 to the window, {window}")
    if length <= window:
        return [0]
    return [min(at, length - window) for at in range(0, length - window + stride, stride)]


def slide(run: Run, image: Tensor, window: int, stride: int) -> Tensor:
    """Logits [classes h w] of an image [3 h w], no side shorter than the window."""
    high, wide = image.shape[-2:]
    if min(high, wide) < window:
        raise InputError(f"an image of {high} x {wide} is smaller than the window of {window}")
    total, seen = None, torch.zeros(high, wide)
    for top in starts(high, window, stride):
        for left in starts(wide, window, stride):
            part = slice(top, top + window), slice(left, left + window)
            logits = run(image[None, :, *part])[0].float()
            if total is None:  # where the model answers, which may be an accelerator
                total, seen = logits.new_zeros(len(logits), high, wide), seen.to(logits.device)
            total[:, *part] += logits
            seen[part] += 1
    assert total is not None
    return total / seen


def prepared(image: Image.Image, preprocess: Preprocess) -> Tensor:
    """[3 h w]: the short side as long as the window, the aspect ratio kept, normalised."""
    window = preprocess.size[0]
    share = window / min(image.width, image.height)
    size = (max(window, round(image.height * share)), max(window, round(image.width * share)))
    whole = preprocess.model_copy(update={"size": size, "crop_pct": 1.0, "crop_mode": "squash"})
    return torch.from_numpy(whole(image))


def segment(run: Run, image: Image.Image, preprocess: Preprocess, stride: int | None = None) -> np.ndarray:
    """The class of every pixel of a photograph, uint8 (h w).

    Args:
        run: the model; it gets one window at a time.
        stride: of the windows; by default 15/16 of the window (480 of 512, as published).
    """
    window = preprocess.size[0]
    logits = slide(run, prepared(image, preprocess), window, stride or default_stride(window))
    full = F.interpolate(logits[None], size=(image.height, image.width), mode="bilinear", align_corners=False)
    if full.shape[1] == 1:  # no or yes
        full = torch.cat([torch.zeros_like(full), full], 1)
    return full[0].argmax(0).to(torch.uint8).cpu().numpy()


def default_stride(window: int) -> int:
    return max(1, window * 15 // 16)

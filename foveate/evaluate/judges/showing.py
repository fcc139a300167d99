"""Whether outputs are of their kind, and what of them is shown beside `shown`."""

from collections.abc import Sequence

import numpy as np

from foveate.errors import InputError
from foveate.evaluate.judges._logits import answers, names_of
from foveate.facts import Outputs

MOST_DRAWN = 255  # classes a mask of bytes can hold beside the void
SHAPES: dict[Outputs, str] = {"classes": "[n, classes]", "embedding": "[n, channels]", "masks": "[n, classes, h, w]"}


def check_shape(kind: Outputs, shape: Sequence[int], names: Sequence[str] | None = None) -> None:
    """Raise InputError where outputs of `shape` [n ...] are not of the kind, or `names` not as many as classes.

    One logit alone is a yes or no: it may have the names of both answers, or that of yes (but for masks).
    """
    wanted = 4 if kind == "masks" else 2
    if len(shape) != wanted or not all(shape[1:]):
        raise InputError(f"outputs of shape {list(shape)} are no {kind}; allowed: {SHAPES[kind]}")
    allowed = [shape[1]] if shape[1] > 1 else [2] if kind == "masks" else [1, 2]
    if names is not None and kind != "embedding" and len(names) not in allowed:
        raise InputError(
            f"outputs of shape {list(shape)} and {len(names)} class names; "
            f"allowed: {' or '.join(map(str, allowed))} names, or none"
        )


def named(outputs: int, names: Sequence[str] | None) -> list[str]:
    """The names that `shown` has for so many logits, by index."""
    return names_of(outputs, names) if outputs > 1 else ["yes"] if names is None else list(names)


def drawn(logits: np.ndarray) -> np.ndarray:
    """The class of every pixel of logits [classes h w], uint8 [h w]; of one class alone, 1 where its logit is above 0.

    Raises:
        InputError: more classes than bytes can tell.
    """
    if logits.ndim != 3 or not 1 <= len(logits) <= MOST_DRAWN:
        raise InputError(f"masks {list(logits.shape)}; allowed: [classes, h, w], 1 to {MOST_DRAWN} classes")
    return answers(logits[None])[0].astype(np.uint8)


def pixel_shares(mask: np.ndarray, classes: int, names: Sequence[str] | None) -> list[tuple[str, float]]:
    """What `shown` says of masks, of one that is drawn already, uint8 [h w]: classes by falling share of pixels."""
    counts = np.bincount(mask.ravel(), minlength=max(2, classes))
    known = names_of(max(2, classes), names)
    return [(known[i], float(counts[i] / mask.size)) for i in np.argsort(-counts, kind="stable") if counts[i]]

"""What judges of logits share. Classes lie along axis 1: [S C], or [S C h w] for masks."""

from collections.abc import Sequence

import numpy as np


def two_classes(logits: np.ndarray) -> np.ndarray:
    """One logit z as the logits [0, z] of no and yes: the same sigmoid, threshold 0; several as they are."""
    if logits.shape[1] != 1:
        return logits
    return np.concatenate([np.zeros_like(logits), logits], axis=1)


def answers(logits: np.ndarray) -> np.ndarray:
    """The class that is answered; of one logit 1 above the threshold and 0 at it or below."""
    return two_classes(logits).argmax(1)


def divergence(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(softmax(reference) || softmax(other)) over axis 1, in nats; stable for any finite logits.

    Elementwise in the precision of what is given; the sum over classes is float64.
    """
    from scipy.special import log_softmax

    log_p, log_q = log_softmax(two_classes(reference), axis=1), log_softmax(two_classes(other), axis=1)
    # Each term is q - p - p (log q - log p), never negative, and sum q - sum p is 0: nothing cancels over the classes.
    # Where p is near q it is p (exp(d) - 1 - d), taken from its series so that nothing cancels inside a term either.
    p, q, d = np.exp(log_p), np.exp(log_q), log_q - log_p
    near = p * d * d * (0.5 + d * (1 / 6 + d * (1 / 24 + d / 120)))
    return np.where(np.abs(d) < 1e-2, near, q - p - p * d).sum(axis=1, dtype=np.float64)


def names_of(count: int, classes: Sequence[str] | None) -> list[str]:
    """Of `count` classes."""
    return [f"class {i}" for i in range(count)] if classes is None else list(classes)

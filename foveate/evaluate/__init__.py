"""Photographs in, figures with intervals out: data readers, accuracy, and distance from the dense model."""

from foveate.evaluate.data import Images, open_images
from foveate.evaluate.metrics import accuracy, agreement, compare, drop, kl, max_abs, mean_kl, sqnr, sqnr_db, top

__all__ = [
    "Images",
    "open_images",
    "accuracy",
    "agreement",
    "compare",
    "drop",
    "kl",
    "max_abs",
    "mean_kl",
    "sqnr",
    "sqnr_db",
    "top",
]

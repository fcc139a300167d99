"""Photographs in, figures with intervals out: data readers, and a judge for every kind of output."""

from foveate.evaluate.data import Images, open_images
from foveate.evaluate.judges import JUDGES, Judge, Quality, make_judge, nearest, shown, sound
from foveate.evaluate.judges.classes import accuracy, agreement, compare, drop, kl, mean_kl, top
from foveate.evaluate.metrics import max_abs, sqnr, sqnr_db

__all__ = [
    "Images",
    "open_images",
    "JUDGES",
    "Judge",
    "Quality",
    "make_judge",
    "nearest",
    "shown",
    "sound",
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

"""What is taught in moments: photographs of three colours, small models, a recipe; and what a run has logged."""

import csv

import numpy as np
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from foveate.models.iret import IRET
from foveate.train import Augment, Classify, Recipe

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}


def photograph(colour, seed):
    rng = np.random.default_rng(seed)
    noisy = np.asarray(COLOURS[colour]) + rng.normal(0, 40, (40, 48, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def small(classes):
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=classes)


def incremental(classes):
    """What an operating point is drawn for at every step, and stochastic depth: resumed, the same numbers are drawn."""
    return IRET(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=classes, drop_path_rate=0.2)


def recipe(data, **more):
    values = {
        "model": small, "data": str(data), "image_size": 32, "epochs": 2, "batch": 8, "lr": 2e-3, "workers": 0,
        "precision": "fp32", "task": Classify(0.0), "augment": Augment(scale=(0.5, 1.0)),
    }  # fmt: skip
    return Recipe(**values | more)


def losses(out, what="loss"):
    """Rows of its log whose names start so: (step, name, value)."""
    with (out / "log.csv").open(newline="") as file:
        return [
            (int(r["step"]), r["name"], float(r["value"])) for r in csv.DictReader(file) if r["name"].startswith(what)
        ]

"""What reads a folder, whoever made it: opened, answered from, shown, and its photographs with their labels."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from foveate.artefact import Artefact
from foveate.errors import InputError, NotAvailable
from foveate.evaluate import open_images
from foveate.loading.load import load
from foveate.report import write_report


def read_folder(folder: Path) -> str | None:
    """None where it was read or refused in a line; else what came instead."""
    warnings.simplefilter("ignore")
    if (folder / "photos").is_dir():
        readers = (_photographs,)
    elif any(folder.glob("best.*")):
        readers = (lambda at: load(str(at)),)
    else:
        readers = (_model, write_report)
    return next(filter(None, (_tried(reader, folder) for reader in readers)), None)


def _tried(reader: Callable[[Path], object], folder: Path) -> str | None:
    try:
        reader(folder)
    except (InputError, NotAvailable) as e:
        return None if len(str(e)) < 1500 and "\n" not in str(e) else f"no short line: {str(e)[:300]!r}"
    except BaseException as e:
        return f"{type(e).__name__}: {str(e)[:500]}"
    return None


def _photographs(folder: Path) -> None:
    for _ in open_images(folder, classes=3):
        pass


def _model(folder: Path) -> None:
    opened = Artefact(folder, threads=1)
    opened(np.zeros((1, opened.preprocess.channels, *opened.preprocess.size), np.float32))

"""Is it whole? What must hold of folders, weights and the cache at any moment."""

import hashlib
import sqlite3
from pathlib import Path

import numpy as np

from foveate.artefact import Artefact


def digest(folder: Path) -> dict[str, str]:
    """{file: its digest} of all in a folder."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*")) if p.is_file()
    }  # fmt: skip


def artefact(folder: Path) -> str | None:
    """What is wrong with a folder that should hold a fitted model; None where it opens and answers."""
    try:
        opened = Artefact(folder, threads=1, trust=True)
        size, channels = opened.preprocess.size, opened.preprocess.channels
        found = opened(np.zeros((1, channels, *size), np.float32))
    except Exception as e:
        return f"{folder}: {type(e).__name__}: {e}"
    return None if np.isfinite(found).all() else f"{folder}: its answer is not finite"


def either(folder: Path, before: dict[str, str] | None) -> str | None:
    """None where the folder is what it was before (None: not there), or a whole new one."""
    if not folder.exists():
        return None if before is None else f"{folder} is gone"
    if before is not None and digest(folder) == before:
        return None
    return artefact(folder)


def cache(folder: Path) -> str | None:
    for file in folder.rglob("*.sqlite"):
        with sqlite3.connect(file) as db:
            (found,) = db.execute("PRAGMA integrity_check").fetchone()
        db.close()
        if found != "ok":
            return f"{file}: {found}"
    return None

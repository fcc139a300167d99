"""Model files that are programs (`eager`'s, `compile`'s): opening one runs what is in it, whoever wrote it.

ONNX and OpenVINO files are data. A program is opened where this user made it, here, which its digest in the cache
tells, or where the caller says that its maker is trusted.
"""

import hashlib
import os
from pathlib import Path

from foveate.errors import InputError
from foveate.files import cache_folder, write_text

MADE = "made"  # the folder of digests in the cache


def remember(file: Path) -> None:
    """This program was made here. Without a cache that can be written it will need trust, like anybody's."""
    try:
        write_text(cache_folder() / MADE / _digest(file), "")
    except InputError:
        return


def check_trusted(file: Path) -> None:
    """
    Raises:
        InputError: a program that was not made here.
    """
    if not file.is_file():  # a pipe is never at its end
        raise InputError(f"cannot read {file}: no regular file")
    if not (cache_folder() / MADE / _digest(file)).exists():
        raise InputError(
            f"{file} is a program, which opening it would run, and it was not made here by you; allowed: --trust "
            "(trust=True), if you trust whoever made it, or a folder exported for onnxruntime or openvino"
        )


def _digest(file: Path) -> str:
    """Of the file and of what stands beside it under the same stem, names included."""
    found, stem = hashlib.sha256(), file.name.removesuffix(file.suffix)
    beside = sorted(p for p in file.parent.iterdir() if p.name.startswith(stem) and p.name != file.name and p.is_file())
    for part in (file, *beside):  # its own first: no name that a folder gives may hide it behind another
        found.update(os.fsencode(part.name) + b"\0")
        with part.open("rb") as opened:
            found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()

"""Files of weights by their names; nothing heavy, so that a wrong one is told at once."""

from pathlib import Path

from foveate.errors import InputError

PICKLES = (".pth", ".pt", ".bin", ".tar", ".ckpt")
ALLOWED = f".safetensors, {' '.join(PICKLES)}"


def script_parts(where: str) -> tuple[Path, str]:
    """FILE:FUNCTION as (file, function).

    Raises:
        InputError: not of that form, or no such file.
    """
    file, colon, function = where.rpartition(":")
    if not colon or not file or not function.isidentifier():
        raise InputError(f"--model-script {where!r}; allowed: FILE:FUNCTION, such as model.py:build")
    if not (path := Path(file)).is_file():
        raise InputError(f"--model-script {where!r}: no file {file}")
    return path, function


def check_weights_file(path: Path | str) -> Path:
    """
    Raises:
        InputError: no such file, or of a type that holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights {path}: {'is a folder' if path.is_dir() else 'no such file'}; allowed: {ALLOWED}")
    if path.suffix not in (".safetensors", *PICKLES):
        raise InputError(f"weights {path}: unknown type {path.suffix!r}; allowed: {ALLOWED}")
    return path

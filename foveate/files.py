"""Writing that leaves nothing half-written: a temporary name beside the target, then a rename."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, model_validator

from foveate.errors import InputError

M = TypeVar("M", bound=BaseModel)


def printable(text: str) -> str:
    """The text with what is no Unicode in it as escapes: a file's name in Latin-1, say, is any bytes to Linux."""
    try:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half of a surrogate pair: no name of a file
        return text.encode("utf-8", "backslashreplace").decode()


class Told(BaseModel):
    """A value that is written for others to read, in which all text is `printable`: else JSON could not hold it."""

    @model_validator(mode="before")
    @classmethod
    def _printable(cls, data: Any) -> Any:
        return _each(data)


def _each(data: Any) -> Any:
    if isinstance(data, str):
        return data if data.isascii() else printable(data)
    if isinstance(data, dict):
        return {_each(key): _each(value) for key, value in data.items()}
    if type(data) in (list, tuple):
        return type(data)(_each(value) for value in data)
    return data


def read_text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"cannot read {path}: {_reason(e)}") from None


def read_as(model: type[M], path: str | Path, wrong: str = "is damaged") -> M:
    """A JSON file as a pydantic model.

    Raises:
        InputError: where it cannot be read, or is no such model: "`path` `wrong`: field: reason".
    """
    try:
        return model.model_validate_json(read_text(path))
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path} {wrong}: {where}: {first['msg']} (got {first['input']!r:.80})") from None


def cache_folder() -> Path:
    """FOVEATE_CACHE, else foveate's folder under XDG_CACHE_HOME, else ~/.cache/foveate."""
    if named := os.environ.get("FOVEATE_CACHE"):
        return Path(named)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "foveate"
    return Path("~/.cache/foveate").expanduser()


def inside(folder: Path, name: str) -> Path:
    """The file `name` of `folder`, links followed.

    Raises:
        InputError: where it lies elsewhere: a folder somebody else made may name any file.
    """
    path = folder / name
    try:
        real, root = path.resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError) as e:  # a loop of links, a name with a NUL
        raise InputError(f"{folder} names {name!r:.80}, which cannot be looked up: {e}") from None
    if not real.is_relative_to(root) or real == root:
        raise InputError(f"{folder} names {name!r:.80}, which is not in it; allowed: files in the folder itself")
    return path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to; renames it over `path` at the end, or removes it on any error.

    Raises:
        InputError: where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(fd)
        part = Path(name)
        yield part
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as e:
        raise InputError(f"cannot write {path}: {_reason(e)}") from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """As `replacing`, for a folder: yields an empty one beside `path`, swaps it in at the end.

    An existing folder is replaced only if it is empty or holds a `plan.json`, that is, something foveate wrote.
    """
    path = Path(path)
    check_folder(path)
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        part.chmod(0o777 & ~_umask())
        yield part
        old = None
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
            path.replace(old)
        part.replace(path)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as e:
        raise InputError(f"cannot write {path}: {_reason(e)}") from None
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def check_folder(path: str | Path) -> None:
    """Raise, before long work starts, where `path` could not be written at its end."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"output folder {path} is a file")
    if path.is_dir() and any(path.iterdir()) and not (path / "plan.json").exists():
        raise InputError(f"output folder {path} holds something that foveate did not write; name another or empty it")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as e:
        raise InputError(f"cannot write {path}: {_reason(e)}") from None


def write_text(path: str | Path, text: str) -> Path:
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
    return Path(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _reason(e: OSError | UnicodeDecodeError) -> str:
    return e.strerror if isinstance(e, OSError) and e.strerror else str(e)

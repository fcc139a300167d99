"""Writing that leaves nothing half-written: a temporary name beside the target, then a rename."""

import contextlib
import ctypes
import errno
import io
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError, model_validator

from foveate.errors import InputError
from foveate.staging import STAGED, is_staged, staged_file, staged_folder, staged_name, sweep

M = TypeVar("M", bound=BaseModel)
LOCK = ".lock"
PLAN = "plan.json"  # what marks a folder as written by foveate
REFILLING = f"{STAGED}refilling"  # and one whose files are being replaced
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ROOM = 2**16  # bytes
MOST_TEXT = 2**28  # bytes of a file of JSON, which may hold photographs
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # Linux's numbers


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
    """
    Raises:
        InputError: where it cannot be read, is no UTF-8, too large, or never at its end (a pipe, a device).
    """
    try:
        about = Path(path).stat()
        if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
            raise InputError(f"cannot read {path}: no regular file")
        if about.st_size > MOST_TEXT:
            raise InputError(f"cannot read {path}: {about.st_size:,} bytes; allowed: at most {MOST_TEXT:,}")
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


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While this lasts no other process gets the same folder; it ends with the process, however that ends.

    Raises:
        InputError: another process has it, or it cannot be made.
    """
    try:
        import fcntl
    except ImportError:  # not a system that can
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")  # it stays: of two that wait for one, each must find the same
    except OSError as e:
        raise InputError(f"cannot write {folder}: {_reason(e)}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise InputError(
                f"process {file.read(20).strip() or 'unknown'} is writing into {folder}; allowed: another --out, or "
                "this one when that has ended"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to; renames it over `path` at the end, or removes it on any error.

    Raises:
        InputError: where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    with _telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged_file(path.parent, path.suffix) as part:
            yield part
            part.chmod(0o666 & ~_umask())
            part.replace(path)


@contextlib.contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """As `replacing`, for a folder: yields an empty one, whose contents are those of `path` at the end.

    An existing folder is replaced only if it is empty or holds a `plan.json`, that is, something foveate wrote. The two
    are exchanged in one step, so that one of them is there at any moment. A folder that cannot be moved (a mount point,
    a container's volume, the current folder) gets its files replaced: `plan.json` goes first and comes last, so that it
    is never taken for a whole one in between.
    """
    path = Path(path)
    check_folder(path)
    with _telling(path):
        real = path.resolve()  # a link to a folder stays one
        stays = real.is_dir() and not movable(real)
        real.parent.mkdir(parents=True, exist_ok=True)
        with staged_folder(real if stays else real.parent) as part:
            part.chmod(0o777 & ~_umask())
            yield part
            if stays:
                _refill(real, part)
            elif real.exists():
                try:
                    _exchange(part, real)
                except OSError as e:  # one that cannot be moved, and does not look like it (a container's lower layer)
                    if e.errno not in (errno.EXDEV, errno.EBUSY, errno.EPERM):
                        raise
                    _refill(real, part)
            else:
                part.replace(real)


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turns what goes wrong in writing `path` into one line, whoever raises it: libraries have errors of their own for
    a full disk."""
    try:
        yield
    except OSError as e:
        raise InputError(f"cannot write {path}: {_reason(e)}") from None
    except (InputError, MemoryError):
        raise
    except Exception as e:
        if (reason := full(path.parent, e)) is not None:
            raise InputError(f"cannot write {path}: {reason}") from None
        raise


def full(folder: Path, error: BaseException) -> str | None:
    """Why there is no room in `folder`, where that is what `error` or one that it came from says; None where not."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL:
            return os.strerror(seen.errno)
        for number in FULL:
            if os.strerror(number) in str(seen) or f"os error {number}" in str(seen):
                return os.strerror(number)
        seen = seen.__cause__ or seen.__context__
    while not folder.is_dir():
        folder = folder.parent
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder).free < NO_ROOM:  # torch says where in its own code a write failed, not why
            return os.strerror(errno.ENOSPC)
    return None


def check_folder(path: str | Path) -> None:
    """Raise, before long work starts, where `path` could not be written at its end."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"output folder {path} is a file")
    if path.is_symlink() and not path.exists():
        raise InputError(f"output folder {path} is a link to {path.readlink()}, which is not there")
    inside = [p.name for p in path.iterdir() if not is_staged(p.name)] if path.is_dir() else []
    if inside and not {PLAN, REFILLING} & set(inside):
        raise InputError(f"output folder {path} holds something that foveate did not write; name another or empty it")
    real = path.resolve()
    parent = real if real.is_dir() and not movable(real) else real.parent
    while not parent.exists():
        parent = parent.parent
    try:
        sweep(parent)  # before long work: what killed runs left may be what fills the disk
        with staged_folder(parent) as one:  # made, renamed, removed: as at the end
            two = one.with_name(staged_name())
            one.rename(two)
            two.rename(one)
    except OSError as e:
        raise InputError(f"cannot write {path}: {_reason(e)}") from None


def movable(folder: Path) -> bool:
    """May another folder take this one's place by a rename? Not where something is mounted on it or on which somebody
    stands: a shell in the current folder would be left in one that is gone."""
    if folder.is_mount() or Path.cwd().is_relative_to(folder):
        return False
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return True
    # Bind mounts of one file system are no mount points to `is_mount`. Spaces and the like stand there as octals.
    points = {re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split(" ")[4]) for line in lines}
    return str(folder) not in points


def _exchange(new: Path, old: Path) -> None:
    """`new` in the place of `old`, which is then in the place of `new`; at once, where Linux can."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        names = os.fsencode(new), os.fsencode(old)
        if libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
            return
        if (number := ctypes.get_errno()) not in (errno.ENOSYS, errno.EINVAL):  # not on this file system
            raise OSError(number, os.strerror(number))
    aside = Path(tempfile.mkdtemp(prefix=f".{old.name}-old-", dir=old.parent))
    old.replace(aside)
    try:
        new.replace(old)
    except OSError:
        aside.replace(old)
        raise
    aside.replace(new)


def _refill(folder: Path, part: Path) -> None:
    """The contents of `part`, on the same file system, in the place of what is in `folder`."""
    (folder / REFILLING).touch()
    (folder / PLAN).unlink(missing_ok=True)
    for old in folder.iterdir():
        if not old.name.startswith(STAGED):
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for new in sorted(part.iterdir(), key=lambda new: new.name == PLAN):
        new.replace(folder / new.name)
    (folder / REFILLING).unlink()


@contextlib.contextmanager
def unfailing(path: Path) -> Iterator[BinaryIO]:
    """A file for code that cannot bear a write to fail: torch's writer ends the process over a full disk. What failed
    is raised at the end of the block."""
    with path.open("wb") as raw, _Unfailing(raw) as file:
        yield file  # type: ignore[misc]
        file.flush()
        if file.error is not None:
            raise file.error


class _Unfailing(io.RawIOBase):
    """`error`: the first that a write had; after it nothing is written any more."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self._at, self._end = raw, 0, 0
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._do(lambda: self._raw.write(data))
        self._at += size
        self._end = max(self._end, self._at)
        return size

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._end)[whence]
        self._do(lambda: self._raw.seek(self._at))
        return self._at

    def tell(self) -> int:
        return self._at

    def flush(self) -> None:
        self._do(self._raw.flush)

    def _do(self, work: Callable[[], object]) -> None:
        try:
            if self.error is None:
                work()
        except OSError as e:
            self.error = e


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

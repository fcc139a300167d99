"""Files and folders under way: held while their process lives, swept once it is gone.

What foveate writes stands under a name of this module until it is whole, and its process holds a lock on it, which the
kernel lets go however the process ends. So whoever comes next can tell what a killed run left from what another one,
in a container beside this one too, still writes.
"""

import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a system that can
    fcntl = None  # type: ignore[assignment]

STAGED = ".foveate-"  # how all such names begin
NAME = re.compile(r"\.foveate-part-[0-9a-f]{12}(\..{1,64})?")
GRACE_S = 10.0  # between the making of a name and the lock on it
UNLOCKED_S = 7 * 86400.0  # where a file system knows no locks, what nobody touched for so long is abandoned

_swept: set[Path] = set()


def staged_name(suffix: str = "") -> str:
    return f"{STAGED}part-{secrets.token_hex(6)}{suffix if 1 < len(suffix) <= 65 else ''}"


def is_staged(name: str) -> bool:
    return NAME.fullmatch(name) is not None


@contextmanager
def staged_file(folder: Path, suffix: str = "") -> Iterator[Path]:
    """A new empty file in `folder`, removed at the end unless it was moved away."""
    sweep(folder)
    with spelled(folder) as at:
        path = at / staged_name(suffix)
        held = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            _hold(held)
            yield path
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            os.close(held)


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """A new empty folder in `folder`, removed at the end with what is then under that name."""
    sweep(folder)
    with spelled(folder) as at, _held_folder(at) as path:
        yield path


@contextmanager
def _held_folder(folder: Path) -> Iterator[Path]:
    path = folder / staged_name()
    path.mkdir(0o700)
    held = os.open(path, os.O_RDONLY)
    try:
        _hold(held)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what nobody keeps, where the system has its temporary files."""
    folder = Path(tempfile.gettempdir())
    sweep(folder)
    with _held_folder(folder) as path:
        yield path


@contextmanager
def spelled(path: Path) -> Iterator[Path]:
    """`path` under a name that is UTF-8, since libraries in C++ and Rust take no other: itself, or a link to it."""
    if _is_utf8(path):
        yield path
        return
    with scratch() as folder:
        link = folder / ("it" + (path.suffix if _is_utf8(Path(path.suffix)) else ""))
        link.symlink_to(path.resolve())
        yield link


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def sweep(folder: Path) -> list[Path]:
    """Remove what runs that are gone left in `folder`, once a process: only what bears a name of ours, belongs to this
    user, and is held by nobody. Returns what was removed."""
    if folder in _swept:
        return []
    _swept.add(folder)
    gone = list[Path]()
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if is_staged(entry.name) and abandoned(path):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
                gone.append(path)
    return gone


def abandoned(path: Path) -> bool:
    """Is it ours, and did the process that held it end?"""
    try:
        found = path.lstat()
    except OSError:
        return False
    kind = stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)
    age = time.time() - max(found.st_mtime, found.st_ctime)
    if not kind or found.st_uid != os.getuid() or age < GRACE_S:
        return False
    if fcntl is None:
        return age > UNLOCKED_S
    try:
        held = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return age > UNLOCKED_S
    finally:
        os.close(held)
    return True


def _hold(held: int) -> None:
    if fcntl is not None:
        with suppress(OSError):  # a file system that knows no locks
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)

"""Where photographs lie: a folder, a .zip or .tar files, read alike and never unpacked."""

import os
import stat
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from foveate.errors import InputError
from foveate.preprocess import MAX_FILE_BYTES


class Read(Protocol):
    """A file of a source by its name, of at most so many bytes."""

    def __call__(self, name: str, most: int = MAX_FILE_BYTES, /) -> bytes: ...


IMAGEFOLDER = "imagefolder:"  # before a path: its folders are classes in sorted order
RUBBISH = {"__MACOSX", "Thumbs.db", "desktop.ini"}
TRAIN, VAL = ("train", "training"), ("val", "valid", "validation", "test")  # what people call their splits


class Source(ABC):
    """Files under one root, by their relative names with forward slashes."""

    shown: str  # as the user would write it; stands in errors

    @abstractmethod
    def names(self) -> list[str]:
        """Every file under the root, hidden ones and what archivers add left out, sorted."""

    def folders(self) -> list[str]:
        """Every folder under the root by its name, those among them that hold nothing where it can be told; sorted."""
        return sorted(
            {"/".join(parts[:i]) for name in self.names() for parts in [name.split("/")] for i in range(1, len(parts))}
        )

    @abstractmethod
    def reader(self) -> AbstractContextManager[Read]:
        """A context manager: a function from a name to its bytes, usable from several threads.

        That function raises InputError for what is missing, damaged or too large.
        """


class Folder(Source):
    def __init__(self, root: Path) -> None:
        self.root, self.shown = root, str(root)

    def names(self) -> list[str]:
        return sorted(filter(_shown, ((inside / file).as_posix() for inside, files in self._walk() for file in files)))

    def folders(self) -> list[str]:
        return sorted(filter(_shown, (inside.as_posix() for inside, _ in self._walk() if inside.parts)))

    def _walk(self) -> Iterator[tuple[Path, list[str]]]:
        """(folder relative to the root, its files)."""
        seen = set()
        for at, folders, files in os.walk(self.root, followlinks=True):  # data sets are often folders of links
            real = os.path.realpath(at)
            if real in seen:  # a link that leads back up
                folders.clear()
                continue
            seen.add(real)
            yield Path(at).relative_to(self.root), files

    @contextmanager
    def reader(self) -> Iterator[Read]:
        def read(name: str, most: int = MAX_FILE_BYTES, /) -> bytes:
            path = self.root / name
            try:
                about = path.stat()
                if not stat.S_ISREG(about.st_mode):  # a pipe or a device is never at its end
                    raise InputError(f"{self.shown}/{name} is no regular file")
                _check_bytes(f"{self.shown}/{name}", about.st_size, most)
                return path.read_bytes()
            except OSError as e:
                raise InputError(f"cannot read {path}: {e.strerror or e}") from None

        yield read


class Zip(Source):
    """`inner` is a folder inside the archive, "" for all of it."""

    def __init__(self, path: Path, inner: str = "") -> None:
        self.path, self.inner = path, f"{inner}/" if inner else ""
        self.shown = f"{path}/{inner}" if inner else str(path)

    def names(self) -> list[str]:
        with self._open() as archive:
            files = [i.filename for i in archive.infolist() if not i.is_dir() and i.filename.startswith(self.inner)]
        return sorted(filter(_shown, (name[len(self.inner) :] for name in files)))

    def folders(self) -> list[str]:
        with self._open() as archive:
            empty = [i.filename for i in archive.infolist() if i.is_dir() and i.filename.startswith(self.inner)]
        own = (name[len(self.inner) :].rstrip("/") for name in empty)
        return sorted({*super().folders(), *filter(_shown, filter(None, own))})

    @contextmanager
    def reader(self) -> Iterator[Read]:
        with self._open() as archive:

            def read(name: str, most: int = MAX_FILE_BYTES, /) -> bytes:
                try:
                    info = archive.getinfo(self.inner + name)
                    _check_bytes(f"{self.shown}/{name}", info.file_size, most)
                    return archive.read(info)
                except KeyError:
                    raise InputError(f"{self.shown} holds no {name}") from None
                except InputError:
                    raise
                # Damaged bytes make zipfile and its decompressors raise kinds they do not document (zlib.error,
                # EOFError, struct.error, ...), and encryption a RuntimeError; the promise is one line for any of them.
                except Exception as e:
                    raise InputError(f"cannot read {name} in {self.shown}: {e}") from None

            yield read

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as e:
            raise InputError(f"{self.path} cannot be read as a .zip: {e}") from None


class Tars(Source):
    """Uncompressed .tar files; a name is FILE.tar/member."""

    def __init__(self, root: Path, files: tuple[Path, ...]) -> None:
        self.files, self.shown = {path.name: path for path in files}, str(root)

    @cached_property
    def places(self) -> dict[str, tuple[str, int, int]]:
        """{name: (file, first byte, bytes)}."""
        found = {}
        for file, path in self.files.items():
            try:
                with tarfile.open(path, "r:") as archive:
                    for member in archive:
                        if member.isfile():
                            found[f"{file}/{member.name}"] = (file, member.offset_data, member.size)
            except (tarfile.TarError, OSError) as e:
                raise InputError(f"{path} cannot be read as an uncompressed .tar: {e}") from None
        return found

    def names(self) -> list[str]:
        return sorted(filter(_shown, self.places))

    @contextmanager
    def reader(self) -> Iterator[Read]:
        with ExitStack() as stack:
            open_files = {file: stack.enter_context(path.open("rb")).fileno() for file, path in self.files.items()}

            def read(name: str, most: int = MAX_FILE_BYTES, /) -> bytes:
                file, first, size = self.places[name]
                _check_bytes(f"{self.shown}/{name}", size, most)
                return os.pread(open_files[file], size, first)  # seeks nothing that another thread could move

            yield read


@dataclass(frozen=True)
class Named:
    """Photographs of a source, by their names. Nothing is decoded until it is needed."""

    source: Source
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shown(self) -> str:
        return self.source.shown


def sorted_folders(path: str | Path) -> tuple[Path, bool]:
    """(the path itself, whether `imagefolder:` stands before it)."""
    text = str(path)
    if text.startswith(IMAGEFOLDER) and not Path(path).exists():
        return Path(text.removeprefix(IMAGEFOLDER)), True
    return Path(path), False


def open_source(path: Path) -> Source:
    """`path` may go on inside an archive: `photos.zip/val`."""
    if path.is_dir():
        return Folder(path)
    for at in (path, *path.parents):
        if at.is_file():
            if zipfile.is_zipfile(at):
                return Zip(at, path.relative_to(at).as_posix() if at != path else "")
            raise InputError(f"{at} is a file; allowed: a folder of photographs or a .zip of one")
    raise InputError(f"no folder or .zip at {path}")


def _shown(name: str) -> bool:
    """What the user put there, as opposed to what systems leave behind."""
    return not any(part.startswith(".") or part in RUBBISH for part in name.split("/"))


def _check_bytes(shown: str, size: int, most: int) -> None:
    """Before anything is read, or unpacked."""
    if size > most:
        raise InputError(f"{shown} has {size:,} bytes; allowed: at most {most:,}")

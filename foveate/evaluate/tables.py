"""Tables that name the class of each photograph.

labels.csv      columns file, label (a name or an index)
metadata.csv    file_name, label; metadata.jsonl alike: Hugging Face's imagefolder
images.csv      ImageId, TrueLabel counted from 1: the NIPS 2017 set
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from foveate.errors import InputError
from foveate.evaluate.classnames import ClassNames, as_index, listed
from foveate.evaluate.sources import Source
from foveate.preprocess import SUFFIXES

TABLES = ("labels.csv", "metadata.csv", "metadata.jsonl", "images.csv")
COLUMNS = (("file", "label"), ("file_name", "label"), ("imageid", "truelabel"))
MAX_BYTES = 64 * 2**20  # a line each for a million photographs
MAX_RECORD = 2**20  # characters of one line


@dataclass(frozen=True)
class Table:
    """A table that names photographs and labels. `from_one`: labels are indices counted from one."""

    shown: str
    text: str
    columns: tuple[str, str]
    from_one: bool

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """(photograph, label, line) of every line, as written.

        Raises:
            InputError: a line that is none.
        """
        of = lambda row, key: "" if row.get(key) is None else str(row[key]).strip()
        with _readable(self.shown):
            for row, number in _records(self.text, self.shown.endswith(".jsonl")):
                yield of(row, self.columns[0]), of(row, self.columns[1]), number


def read_table(source: Source, name: str) -> Table | None:
    """A table of `source`; None where it holds something else than labels (captions, say).

    Raises:
        InputError: not readable as a table, too large, or empty; a labels.csv or images.csv without its columns.
    """
    shown = f"{source.shown}/{name}"
    with source.reader() as read, _readable(shown):
        text = read(name, MAX_BYTES).decode("utf-8-sig")
        lines, columns = name.endswith(".jsonl"), set[str]()
        for row, _ in _records(text, lines):
            columns |= row.keys()
            if not lines:
                break
    columns = columns or (set() if lines else _header(text))
    pair = next((pair for pair in COLUMNS if set(pair) <= columns), None)
    if pair is None and name.rpartition("/")[2].startswith("metadata."):
        return None
    if pair is None:
        raise InputError(f"{shown} has columns {listed(sorted(columns))}; allowed: file,label or ImageId,TrueLabel")
    table = Table(shown, text, pair, pair == COLUMNS[2])
    if next(table.rows(), None) is None:
        raise InputError(f"{shown} lists no photographs; allowed: a line each, file,label")
    return table


def labels_of(
    table: Table, root: str, present: Sequence[str], known: ClassNames | None, own: bool
) -> tuple[dict[str, int], tuple[str, ...] | None, int]:
    """({photograph: its class}, what the classes mean, how many lines say again what one said before).

    `own`: the classes are the table's own labels, in sorted order.

    Raises:
        InputError: photographs that are not there, labels that are no class, a photograph with two labels.
    """
    there, said, again = set(present), dict[str, tuple[str, int]](), 0
    lost, first_lost = 0, ""
    for file, label, number in table.rows():
        name = _locate(root, file, there)
        if name is None:
            lost, first_lost = lost + 1, first_lost or file
            continue
        if name in said and said[name][0] != label:
            before, line = said[name]
            raise InputError(
                f"{table.shown} names {file} twice: {before[:80]!r} in line {line}, {label[:80]!r} in line {number}; "
                "allowed: one label a photograph"
            )
        again += name in said
        said.setdefault(name, (label, number))
    if lost:
        raise InputError(f"{table.shown} lists {lost} files that are not there, first {first_lost[:80]!r}")
    written = sorted({label for label, _ in said.values()})
    index_of = dict(zip(written, range(len(written)), strict=True))
    found = {
        name: index_of[label] if own else _index(label, known, table.from_one, f"{table.shown}, line {number}")
        for name, (label, number) in said.items()
    }
    return found, tuple(written) if own else None if known is None else known.classes, again


@contextmanager
def _readable(shown: str) -> Iterator[None]:
    try:
        yield
    except InputError:  # is a ValueError, and says enough
        raise
    except (UnicodeDecodeError, csv.Error, ValueError, RecursionError) as e:
        raise InputError(f"{shown} is not a table foveate can read: {e}; allowed: UTF-8, comma-separated") from None


class _Lines:
    """The lines of a text, one at a time; a record, of one line or of several, has its bound."""

    def __init__(self, text: str) -> None:
        self._file, self.taken, self.number = io.StringIO(text), 0, 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.taken, self.number = self.taken + len(line), self.number + 1
        if self.taken > MAX_RECORD:
            raise ValueError(f"line {self.number} has over {MAX_RECORD:,} characters")
        return line


def _records(text: str, json_lines: bool) -> Iterator[tuple[dict[str, object], int]]:
    """(columns of a record, in lower case, its line) for each that is not empty."""
    lines, header = _Lines(text), list[str]()
    for row in lines if json_lines else csv.reader(lines):
        lines.taken = 0
        if not (row.strip() if isinstance(row, str) else row):
            continue
        if isinstance(row, str):
            found = json.loads(row)
            if not isinstance(found, dict):
                raise ValueError(f"line {lines.number} is no JSON object")
            yield {str(key).strip().lower(): value for key, value in found.items()}, lines.number
        elif not header:
            header = [name.strip().lower() for name in row]
        else:
            yield dict(zip(header, row, strict=False)), lines.number


def _header(text: str) -> set[str]:
    """The columns of a table without lines."""
    row = next((row for row in csv.reader(_Lines(text)) if row), [])
    return {name.strip().lower() for name in row}


def _locate(root: str, file: str, present: set[str]) -> str | None:
    tries = (file, *(file + suffix for suffix in SUFFIXES))
    return next((at for t in tries for at in (root + t, f"{root}images/{t}") if at in present), None)


def _index(label: str, known: ClassNames | None, from_one: bool, where: str) -> int:
    if from_one:
        index = (as_index(label) or 0) - 1
        count = 1000 if known is None else known.count
        if not 0 <= index < count:
            raise InputError(
                f"{where}: TrueLabel {label[:80]!r}; allowed: 1 to {count}, the model's classes counted from one"
            )
        return index
    if known is None:
        if (index := as_index(label)) is None:
            line = f"{where}: label {label[:80]!r}; allowed: an index, as the model's classes have no known names"
            raise InputError(line)
        return index
    index = known(label)
    if index is None:
        raise InputError(f"{where}: label {label[:80]!r} is no class of the model's; allowed: {known.known()}")
    return index

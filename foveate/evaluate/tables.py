"""Tables that name the class of each photograph.

labels.csv      columns file, label (a name or an index)
metadata.csv    file_name, label; metadata.jsonl alike: Hugging Face's imagefolder
images.csv      ImageId, TrueLabel counted from 1: the NIPS 2017 set
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

from foveate.errors import InputError
from foveate.evaluate.classnames import ClassNames, listed
from foveate.evaluate.sources import Source
from foveate.preprocess import SUFFIXES

TABLES = ("labels.csv", "metadata.csv", "metadata.jsonl", "images.csv")
COLUMNS = (("file", "label"), ("file_name", "label"), ("imageid", "truelabel"))
MAX_BYTES = 64 * 2**20  # a line each for a million photographs


@dataclass(frozen=True)
class Table:
    """(photograph, label, line) of every line, as written. `from_one`: labels are indices counted from one."""

    shown: str
    rows: tuple[tuple[str, str, int], ...]
    from_one: bool


def read_table(source: Source, name: str) -> Table | None:
    """A table of `source`; None where it holds something else than labels (captions, say).

    Raises:
        InputError: not readable as a table, too large, or empty; a labels.csv or images.csv without its columns.
    """
    shown = f"{source.shown}/{name}"
    with source.reader() as read:
        try:
            data = read(name)
            if len(data) > MAX_BYTES:
                raise InputError(f"{shown} has {len(data):,} bytes; allowed: at most {MAX_BYTES:,}")
            text = data.decode("utf-8-sig")
            lines = _json_lines(text) if name.endswith(".jsonl") else list(csv.DictReader(io.StringIO(text)))
        except (UnicodeDecodeError, csv.Error, ValueError, RecursionError) as e:
            raise InputError(f"{shown} is not a table foveate can read: {e}; allowed: UTF-8, comma-separated") from None
    rows = [{str(k or "").strip().lower(): v for k, v in row.items() if k} for row in lines]
    columns = {key for row in rows for key in row} if name.endswith(".jsonl") else _columns(text)
    pair = next((pair for pair in COLUMNS if set(pair) <= columns), None)
    if pair is None and name.rpartition("/")[2].startswith("metadata."):
        return None
    if pair is None:
        raise InputError(f"{shown} has columns {listed(sorted(columns))}; allowed: file,label or ImageId,TrueLabel")
    if not rows:
        raise InputError(f"{shown} lists no photographs; allowed: a line each, file,label")
    of = lambda row, key: "" if row.get(key) is None else str(row[key]).strip()
    first = 1 if name.endswith(".jsonl") else 2
    found = [(of(row, pair[0]), of(row, pair[1]), number) for number, row in enumerate(rows, first)]
    return Table(shown, tuple(found), pair == COLUMNS[2])


def labels_of(
    table: Table, root: str, present: Sequence[str], known: ClassNames | None, own: bool
) -> tuple[dict[str, int], tuple[str, ...] | None, int]:
    """({photograph: its class}, what the classes mean, how many lines say again what one said before).

    `own`: the classes are the table's own labels, in sorted order.

    Raises:
        InputError: photographs that are not there, labels that are no class, a photograph with two labels.
    """
    written = sorted({label for _, label, _ in table.rows})
    index_of = dict(zip(written, range(len(written)), strict=True))
    there, found, said, lost, again = set(present), dict[str, int](), dict[str, tuple[str, int]](), list[str](), 0
    for file, label, number in table.rows:
        name = _locate(root, file, there)
        if name is None:
            lost.append(file)
            continue
        if name in said and said[name][0] != label:
            before, line = said[name]
            raise InputError(
                f"{table.shown} names {file} twice: {before!r} in line {line}, {label!r} in line {number}; "
                "allowed: one label a photograph"
            )
        again += name in said
        said.setdefault(name, (label, number))
        where = f"{table.shown}, line {number}"
        found[name] = index_of[label] if own else _index(label, known, table.from_one, where)
    if lost:
        raise InputError(f"{table.shown} lists {len(lost)} files that are not there, first {lost[0]!r}")
    return found, tuple(written) if own else None if known is None else known.classes, again


def _columns(text: str) -> set[str]:
    return {(name or "").strip().lower() for name in csv.DictReader(io.StringIO(text)).fieldnames or ()}


def _json_lines(text: str) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no JSON object")
    return rows


def _locate(root: str, file: str, present: set[str]) -> str | None:
    tries = (file, *(file + suffix for suffix in SUFFIXES))
    return next((at for t in tries for at in (root + t, f"{root}images/{t}") if at in present), None)


def _index(label: str, known: ClassNames | None, from_one: bool, where: str) -> int:
    if from_one:
        index = int(label) - 1 if label.isdecimal() else -1
        count = 1000 if known is None else known.count
        if not 0 <= index < count:
            raise InputError(
                f"{where}: TrueLabel {label!r}; allowed: 1 to {count}, the model's classes counted from one"
            )
        return index
    if known is None:
        if not label.isdecimal():
            raise InputError(f"{where}: label {label!r}; allowed: an index, as the model's classes have no known names")
        return int(label)
    index = known(label)
    if index is None:
        raise InputError(f"{where}: label {label!r} is no class of the model's; allowed: {known.known()}")
    return index

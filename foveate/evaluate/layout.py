"""What a folder of photographs means: which files are photographs, and which class each belongs to.

Known layouts, of a folder and of a .zip alike:
    a.jpg b.png                                  no labels
    dress/a.jpg hat/b.jpg                        class folders: names, indices or (ImageNet-1k models) WordNet ids
    labels.csv + photographs                     columns file, label (a name or an index)
    images.csv + images/ID.jpg or .png           ImageId, TrueLabel counted from 1: the NIPS 2017 set
    train/... val/...                            one of the above, twice: refused, naming the folder to choose
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from foveate.errors import InputError
from foveate.evaluate.sources import Source
from foveate.preprocess import SUFFIXES

TABLES = ("labels.csv", "images.csv")
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing", "eval", "dev")
SHOWN = 5  # names listed in an error


@dataclass(frozen=True)
class Layout:
    """names: photographs, sorted. labels: their class indices, or None. classes: what the indices mean, if known."""

    names: tuple[str, ...]
    labels: tuple[int, ...] | None = None
    classes: tuple[str, ...] | None = None
    note: str | None = None


class ClassNames:
    """From what people call a class (its name, its index, its WordNet id) to its index in the model's output.

    classes: the names by index, or how many there are where they have no known names.
    """

    def __init__(self, classes: Sequence[str] | int) -> None:
        self.classes = None if isinstance(classes, int) else tuple(classes)
        self.count = classes if isinstance(classes, int) else len(classes)
        whole: dict[str, set[int]] = defaultdict(set)
        words: dict[str, set[int]] = defaultdict(set)
        for i, name in enumerate(self.classes or ()):
            whole[_norm(name)].add(i)
            for word in name.split(","):
                words[_norm(word)].add(i)
        if self.count == 1000:
            from timm.data.imagenet_info import ImageNetInfo

            for i, wordnet_id in enumerate(ImageNetInfo("imagenet-1k").label_names()):
                words[_norm(wordnet_id)].add(i)
        # "crane" is a bird and a machine: a word that two classes share stands for neither.
        self._index = {
            word: next(iter(found)) for table in (words, whole) for word, found in table.items() if len(found) == 1
        }

    def __call__(self, label: str) -> int | None:
        """The index, or None where `label` is no class of the model's. Names go before numbers."""
        found = self._index.get(_norm(label))
        if found is None and label.strip().isdecimal() and int(label) < self.count:
            return int(label)
        return found

    def known(self) -> str:
        return f"{listed(self.classes)}, or an index below {self.count}" if self.classes else f"0 to {self.count - 1}"


def find_layout(
    source: Source, classes: Sequence[str] | int | None, unlabelled: bool = False, own_classes: bool = False
) -> Layout:
    """See the module's docstring. `unlabelled` takes every photograph and no label, whatever the layout.
    `own_classes`: the classes are those that the folders or the table name, in sorted order, and `classes` is not read.

    `classes`: the model's class names by output index. A number where it has so many without names: then as many
    folders are its classes in sorted order, as in torchvision's ImageFolder. None where nothing is known: then only
    indices are labels, and folders with names are not, because nothing ties them to the model's outputs.

    Raises:
        InputError: no photographs, splits, classes the model does not have, a table that does not fit.
    """
    names = source.names()
    images = [name for name in names if name.lower().endswith(SUFFIXES)]
    known = None if classes is None or own_classes else ClassNames(classes)
    if not images:
        raise InputError(f"{source.shown} holds no photographs; allowed: {' '.join(SUFFIXES)}")
    if unlabelled:
        return Layout(tuple(images))
    root = _root(names, images, known)
    tables = [root + table for table in TABLES if root + table in names]
    if tables:
        return _from_table(source, tables[0], root, names, known, own_classes)
    inside = [name[len(root) :] for name in images]
    tops = sorted({name.split("/")[0] for name in inside if "/" in name})
    loose = [name for name in inside if "/" not in name]
    if not tops:
        return Layout(tuple(images), None, None if known is None else known.classes)
    if loose:
        raise InputError(
            f"{source.shown} holds {len(loose)} photographs ({loose[0]}) beside folders ({listed(tops)}); "
            "allowed: photographs alone, class folders alone, or a labels.csv"
        )
    indices, meant = _folder_labels(source, root, tops, inside, known, own_classes)
    if indices is None:
        return Layout(tuple(images), note="the class folders are not used: the model's class names are not known")
    return Layout(tuple(images), tuple(indices[name.split("/")[0]] for name in inside), meant)


def _root(names: list[str], images: list[str], known: ClassNames | None) -> str:
    """The prefix of a folder that holds everything (archives often have one), unless it is itself a class."""
    root = ""
    while True:
        tops = {name[len(root) :].split("/")[0] for name in images}
        has_table = any(root + table in names for table in TABLES)
        if has_table or len(tops) > 1 or root + (top := next(iter(tops))) in images:
            return root
        if known is not None and known(top) is not None:
            return root
        root += f"{top}/"


def _folder_labels(
    source: Source, root: str, tops: list[str], inside: list[str], known: ClassNames | None, own: bool
) -> tuple[dict[str, int] | None, tuple[str, ...] | None]:
    """Class folders -> (their indices, what those mean); None where nothing ties the folders to the model."""
    found = {top: None if known is None else known(top) for top in tops}
    strange = [top for top in tops if found[top] is None]
    if known is not None and not strange:
        return {top: index for top, index in found.items() if index is not None}, known.classes
    deep = any(name.count("/") > 1 for name in inside)
    splits = all(top.lower() in SPLITS for top in tops)
    if own and not splits:
        return {top: i for i, top in enumerate(tops)}, tuple(tops)
    if (known is None and deep) or (deep and len(strange) == len(tops)) or splits:
        at = f"{source.shown}/{root}"
        raise InputError(f"{source.shown} holds splits ({listed(tops)}); allowed: one of them, such as {at}{tops[-1]}")
    if known is not None and known.classes is None and len(strange) == len(tops) == known.count:
        return {top: i for i, top in enumerate(tops)}, tuple(tops)
    if known is not None:
        raise InputError(
            f"{len(strange)} of {len(tops)} folders in {source.shown} are no class of the model's ({listed(strange)}); "
            f"allowed: {known.known()}; or ask for no labels"
        )
    if all(top.isdecimal() for top in tops):
        return {top: int(top) for top in tops}, None
    return None, None


def _from_table(source: Source, table: str, root: str, names: list[str], known: ClassNames | None, own: bool) -> Layout:
    shown = f"{source.shown}/{table}"
    with source.reader() as read:
        try:
            text = read(table).decode("utf-8-sig")
            lines = csv.DictReader(io.StringIO(text))
            rows = [{(k or "").strip().lower(): (v or "") for k, v in row.items() if k} for row in lines]
            columns = {(name or "").strip().lower() for name in lines.fieldnames or ()}
        except (UnicodeDecodeError, csv.Error) as e:
            raise InputError(f"{shown} is not a table foveate can read: {e}; allowed: UTF-8, comma-separated") from None
    counts_from_one = {"imageid", "truelabel"} <= columns
    if not counts_from_one and not {"file", "label"} <= columns:
        raise InputError(f"{shown} has columns {listed(sorted(columns))}; allowed: file,label or ImageId,TrueLabel")
    if not rows:
        raise InputError(f"{shown} lists no photographs; allowed: a line each, file,label")
    written = sorted({(row["truelabel"] if counts_from_one else row["label"]).strip() for row in rows})
    index_of = dict(zip(written, range(len(written)), strict=True))
    present, found, lost = set(names), {}, []
    for number, row in enumerate(rows, 2):
        file, label = (row["imageid"], row["truelabel"]) if counts_from_one else (row["file"], row["label"])
        name = _locate(root, file.strip(), present)
        if name is None:
            lost.append(file)
            continue
        where, label = f"{shown}, line {number}", label.strip()
        found[name] = index_of[label] if own else _index(label, known, counts_from_one, where)
    if lost:
        raise InputError(f"{shown} lists {len(lost)} files that are not there, first {lost[0]!r}")
    meant = tuple(written) if own else None if known is None else known.classes
    return Layout(tuple(sorted(found)), tuple(found[name] for name in sorted(found)), meant)


def _locate(root: str, file: str, present: set[str]) -> str | None:
    tries = (file, *(file + suffix for suffix in SUFFIXES))
    return next((at for t in tries for at in (root + t, f"{root}images/{t}") if at in present), None)


def _index(label: str, known: ClassNames | None, counts_from_one: bool, where: str) -> int:
    if counts_from_one:
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


def listed(names: Iterable[str]) -> str:
    """The first few, and how many more."""
    names = list(names)
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _norm(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())

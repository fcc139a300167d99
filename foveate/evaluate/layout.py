"""What a folder of photographs means: which files are photographs, and which class each belongs to.

Known layouts, of a folder and of a .zip alike:
    a.jpg b.png                                  no labels
    dress/a.jpg hat/b.jpg                        class folders: names, indices or (ImageNet-1k models) WordNet ids
    labels.csv + photographs                     columns file, label (a name or an index)
    metadata.csv or .jsonl + photographs         file_name, label: Hugging Face's imagefolder
    images.csv + images/ID.jpg or .png           ImageId, TrueLabel counted from 1: the NIPS 2017 set
    imagefolder:PATH                             class folders in sorted order, whatever they are called
    train/... val/...                            one of the above, twice: refused, naming the folder to choose

Whatever lies there and is not used is told in the note: how many files, of which kind, why.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from foveate.errors import InputError
from foveate.evaluate.classnames import ClassNames, as_index, listed
from foveate.evaluate.sources import Source
from foveate.evaluate.tables import TABLES, labels_of, read_table
from foveate.preprocess import SUFFIXES

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing", "eval", "dev")


@dataclass(frozen=True)
class Layout:
    """names: photographs, sorted. labels: their class indices, or None. classes: what the indices mean, if known.
    note: what is not used, and how folders were understood where that may be taken otherwise; None where all is plain.
    """

    names: tuple[str, ...]
    labels: tuple[int, ...] | None = None
    classes: tuple[str, ...] | None = None
    note: str | None = None

    def noting(self, *notes: str | None) -> "Layout":
        said = [note for note in (self.note, *notes) if note]
        return replace(self, note="; ".join(said) or None)


def find_layout(
    source: Source, classes: Sequence[str] | int | None, unlabelled: bool = False, own_classes: bool = False,
    by_order: bool = False,
) -> Layout:  # fmt: skip
    """See the module's docstring. `unlabelled` takes every photograph and no label, whatever the layout.
    `own_classes`: the classes are those that the folders or the table name, in sorted order, and `classes` is not read.
    `by_order`: class folders are the classes in sorted order, whatever they are called, and tables are not read.

    `classes`: the model's class names by output index. A number where it has so many without names: then as many
    folders are its classes in sorted order, as in torchvision's ImageFolder. None (or 0) where nothing is known: then
    only indices are labels, and folders with names are not, because nothing ties them to the model's outputs.

    Raises:
        InputError: no photographs, splits, classes the model does not have, a table that does not fit.
    """
    names = source.names()
    images = [name for name in names if name.lower().endswith(SUFFIXES)]
    if not images:
        raise InputError(f"{source.shown} holds no photographs; allowed: {' '.join(SUFFIXES)}{_only(names)}")
    if unlabelled:
        return Layout(tuple(images)).noting(_left_out(names, images))
    known = None if not classes or own_classes else ClassNames(classes)
    root = _root(source, names, images, known)
    if by_order:
        return _by_order(source, root, images, known).noting(_left_out(names, images))
    for name in [root + table for table in TABLES if root + table in names]:
        if (table := read_table(source, name)) is None:
            continue
        found, meant, again = labels_of(table, root, names, known, own_classes)
        without = [image for image in images if image not in found]
        repeated = f"{again} lines of {name} say what one before them said" if again else None
        unlisted = (
            f"{len(without)} photographs that {name} does not list ({listed(without[:1])} ...)" if without else None
        )
        others = _left_out(names, [*images, name], *([unlisted] if unlisted else []))
        order = tuple(sorted(found))
        return Layout(order, tuple(found[image] for image in order), meant).noting(others, repeated)
    return _by_folders(source, root, names, images, known, own_classes).noting(_left_out(names, images))


def _root(source: Source, names: list[str], images: list[str], known: ClassNames | None) -> str:
    """The prefix of a folder that holds everything (archives often have one), unless it is itself a class."""
    root = ""
    while True:
        tops = {name[len(root) :].split("/")[0] for name in images}
        has_table = any(root + table in names for table in TABLES)
        if has_table or len(tops) > 1 or root + (top := next(iter(tops))) in images:
            return root
        if known is not None and known(top) is not None:
            return root
        if known is not None and known.classes is None and len(_folders(source, root)) == known.count:
            return root  # one class folder with photographs, and others without
        root += f"{top}/"


def _by_folders(
    source: Source, root: str, names: list[str], images: list[str], known: ClassNames | None, own: bool
) -> Layout:
    inside = [name[len(root) :] for name in images]
    tops = sorted({name.split("/")[0] for name in inside if "/" in name})
    loose = [name for name in inside if "/" not in name]
    plain = Layout(tuple(images), None, None if known is None else known.classes)
    if not tops:
        alone = f"the photographs lie in one folder, {root[:-1]}, which is no class of the model's: they have no labels"
        return plain.noting(alone if root and known is not None else None)
    if loose:
        raise InputError(
            f"{source.shown} holds {len(loose)} photographs ({loose[0]}) beside folders ({listed(tops)}); "
            "allowed: photographs alone, class folders alone, or a labels.csv"
        )
    found = _folder_labels(source, root, tops, inside, known, own)
    if found is None:
        return Layout(tuple(images), note="the class folders are not used: the model's class names are not known")
    indices, meant = found
    labels = tuple(indices[name.split("/")[0]] for name in inside)
    empty = [top for top in indices if top not in tops]
    return Layout(tuple(images), labels, meant).noting(
        _as_numbers(tops, indices, known), f"no photographs in the class folders {listed(empty)}" if empty else None
    )


def _by_order(source: Source, root: str, images: list[str], known: ClassNames | None) -> Layout:
    folders = _folders(source, root)
    loose = [name for name in images if "/" not in name[len(root) :]]
    if loose or not folders:
        raise InputError(f"{source.shown} holds photographs outside class folders ({loose[0]}); allowed: class folders")
    if known is not None and len(folders) != known.count:
        raise InputError(
            f"{source.shown} has {len(folders)} class folders ({listed(folders)}), the model {known.count} classes; "
            "allowed in sorted order: as many"
        )
    index_of = {folder: i for i, folder in enumerate(folders)}
    labels = tuple(index_of[name[len(root) :].split("/")[0]] for name in images)
    return Layout(tuple(images), labels, tuple(folders) if known is None else known.classes or tuple(folders))


def _folder_labels(
    source: Source, root: str, tops: list[str], inside: list[str], known: ClassNames | None, own: bool
) -> tuple[dict[str, int], tuple[str, ...] | None] | None:
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
    if known is not None and known.classes is None and len(strange) == len(tops):
        for folders in (tops, _folders(source, root)):  # those without photographs count where they make it up
            if len(folders) == known.count:
                return {top: i for i, top in enumerate(folders)}, tuple(folders)
    if known is not None:
        raise InputError(
            f"{len(strange)} of {len(tops)} folders in {source.shown} are no class of the model's ({listed(strange)}); "
            f"allowed: {known.known()}; or ask for no labels"
        )
    numbers = {top: as_index(top) for top in tops}
    if None not in numbers.values():
        return {top: number for top, number in numbers.items() if number is not None}, None
    return None


def _folders(source: Source, root: str) -> list[str]:
    """Folders directly in `root`, those that hold nothing among them, sorted."""
    inside = (name[len(root) :] for name in source.folders() if name.startswith(root) and name != root[:-1])
    return sorted({name.split("/")[0] for name in inside})


def _as_numbers(tops: list[str], indices: dict[str, int], known: ClassNames | None) -> str | None:
    """Where folders are taken as indices, and ImageFolder, which sorts names, numbers folders 0, 1 ... otherwise."""
    if known is None or not all(as_index(top) == indices[top] for top in tops):
        return None
    by_name = {top: i for i, top in enumerate(sorted(str(i) for i in range(known.count)))}
    other = next((top for top in tops if by_name.get(top, int(top)) != int(top)), None)
    if other is None or any(known.named(top) is not None for top in tops):
        return None
    return (
        f"class folders are taken as indices: {other} is class {int(other)} (ImageFolder sorts 0 to {known.count - 1} "
        f"by name and makes it class {by_name[other]}; imagefolder: before the path takes them so)"
    )


def _left_out(names: list[str], used: list[str], *more: str) -> str | None:
    """How many files are not read, by their suffix, with an example each."""
    kinds = defaultdict[str, list[str]](list)
    for name in sorted(set(names) - set(used)):
        kinds[_suffix(name)].append(name)
    by_count = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    told = [f"{len(found)} {suffix} ({found[0]}{' ...' if len(found) > 1 else ''})" for suffix, found in by_count]
    parts = [*more, *([listed(told)] if told else [])]
    return f"left out: {', '.join(parts)}" if parts else None


def _only(names: list[str]) -> str:
    return f" ({_left_out(names, [])})" if names else ""


def _suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if dot and stem else "without a suffix"

"""What people call classes, and lists of names in one line."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

SHOWN = 5  # names listed in a line


class ClassNames:
    """From what people call a class (its name, its index, its WordNet id) to its index in the model's output.

    classes: the names by index, or how many there are where they have no known names.
    """

    def __init__(self, classes: Sequence[str] | int) -> None:
        self.classes = None if isinstance(classes, int) else tuple(classes)
        self.count = classes if isinstance(classes, int) else len(classes)
        exact: dict[str, set[int]] = defaultdict(set)
        whole: dict[str, set[int]] = defaultdict(set)
        words: dict[str, set[int]] = defaultdict(set)
        for i, name in enumerate(self.classes or ()):
            exact[composed(name)].add(i)
            whole[_folded(name)].add(i)
            for word in name.split(","):
                words[_folded(word)].add(i)
        if self.count == 1000:
            from timm.data.imagenet_info import ImageNetInfo

            for i, wordnet_id in enumerate(ImageNetInfo("imagenet-1k").label_names()):
                words[_folded(wordnet_id)].add(i)
        # "crane" is a bird and a machine: a word that two classes share stands for neither.
        alone = lambda *tables: {w: next(iter(at)) for t in tables for w, at in t.items() if len(at) == 1}
        self._exact, self._folded = alone(exact), alone(words, whole)

    def __call__(self, label: str) -> int | None:
        """The index, or None where `label` is no class of the model's.

        The name as it is goes before one that is alike but for case, spaces and signs; names go before numbers.
        """
        found = self.named(label)
        number = as_index(label) if found is None else None
        return found if number is None or number >= self.count else number

    def named(self, label: str) -> int | None:
        """The index of a name; None where it is none, be it an index or not."""
        return self._exact.get(composed(label), self._folded.get(_folded(label)))

    def known(self) -> str:
        return f"{listed(self.classes)}, or an index below {self.count}" if self.classes else f"0 to {self.count - 1}"


def as_index(label: str) -> int | None:
    """The index that a label is, if it is one; Python itself refuses numbers of thousands of digits."""
    digits = label.strip()
    return int(digits) if digits.isdecimal() and len(digits) < 10 else None


def listed(names: Iterable[str]) -> str:
    """The first few, and how many more."""
    names = list(names)
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def composed(name: str) -> str:
    """Letters with their signs as one character each (NFC): a Mac writes folders otherwise."""
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return " ".join(composed(composed(name).casefold().replace("_", " ").replace("-", " ")).split())

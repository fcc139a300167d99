"""Names that foveate supports near one that it does not know."""

import difflib
import re
from functools import cache

from foveate.loading.bundled import BUNDLED

# How other zoos abbreviate what timm spells out: ViT-B/16, dinov2_vits14.
SIZES = {"ti": "tiny", "t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}
PATCHES = {"8", "14", "16", "32"}

# Modules whose models have an adapter; within them some have parts that it refuses, so a suggestion is tried.
MODULES = ("timm.models.vision_transformer", "timm.models.deit", "timm.models.eva", "foveate.")


@cache
def supported_names() -> tuple[str, ...]:
    """Registered names of models whose module has an adapter, the bundled one among them."""
    import timm

    import foveate.models  # noqa: F401  puts ours into timm's registry

    able = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith(MODULES)]
    return (BUNDLED, *able)


def nearest_names(name: str, most: int = 3) -> str:
    """ "did you mean a, b or c?" of models that exist, or how to list them."""
    found = near(name, most)
    if not found:
        return "`foveate list models` names those supported"
    return f"did you mean {', '.join(found[:-1])}{' or ' if len(found) > 1 else ''}{found[-1]}?"


def near(name: str, most: int = 3) -> list[str]:
    """Supported models whose names begin alike, the plainest first; then those spelt alike but for a letter or two,
    those that have its words, and, where there are none, those spelt somewhat alike."""
    arch, _, _ = name.rpartition("/")[2].partition(".")  # organisations have names of their own
    plain = re.sub(r"[^a-z0-9]+", "_", arch.lower()).strip("_")
    names = supported_names()
    begin = sorted((n for n in names if n.startswith(plain)), key=lambda n: (len(n), n)) if plain else []

    def spelt(cutoff: float) -> list[str]:
        return difflib.get_close_matches(plain, names, n=2 * most, cutoff=cutoff)

    ordered = dict.fromkeys([*begin, *spelt(0.9), *(_with_words_of(name) or spelt(0.6))])
    found: list[str] = []
    for one in list(ordered)[: 3 * most]:
        if len(found) < most and buildable(one):
            found.append(one)
    return found


def _with_words_of(name: str) -> list[str]:
    """Names that have most of the asked one's words, two at least, those with the fewest others first."""
    have = {n: set(n.split("_")) for n in supported_names()}
    asked = _words(name) & set().union(*have.values())
    shared = {n: len(asked & words) for n, words in have.items()}
    best = max(shared.values(), default=0)
    if best < 2:
        return []
    return sorted((n for n, k in shared.items() if k == best), key=lambda n: (len(have[n]), len(n), n))


def _words(name: str) -> set[str]:
    """The words of a name, as timm spells them: ViT-B/16 -> vit, base, patch16."""
    found = set[str]()
    for word in re.split(r"[^a-z0-9]+", name.lower()):
        short = re.fullmatch(r"(vit|deit)?(ti|[tsblhg])(\d+)?", word)
        parts = [word] if short is None else [short[1] or "", SIZES[short[2]], short[3] or ""]
        found |= {f"patch{part}" if part in PATCHES else part for part in parts}
    return found - {""}


@cache
def buildable(name: str) -> bool:
    """Does an adapter take it, at its defaults?"""
    from foveate.errors import InputError
    from foveate.loading.checks import checked

    try:
        checked(name, {}, None)
    except InputError:
        return False
    return True

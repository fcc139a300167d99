"""Names that foveate supports near one that it does not know."""

import difflib
import re
from functools import cache

from foveate.loading.bundled import BUNDLED

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
    """Supported models whose names begin alike, the plainest first, or else are spelt alike."""
    arch, _, _ = name.partition(".")
    plain = re.sub(r"[^a-z0-9]+", "_", arch.lower()).strip("_")
    names = supported_names()
    begin = sorted((n for n in names if n.startswith(plain)), key=lambda n: (len(n), n)) if plain else []
    ordered = [*begin, *(n for n in difflib.get_close_matches(plain, names, n=2 * most, cutoff=0.6) if n not in begin)]
    found: list[str] = []
    for one in ordered[: 3 * most]:
        if len(found) < most and buildable(one):
            found.append(one)
    return found


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

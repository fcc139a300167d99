"""Methods, runtimes and adapters of others: found by the entry points of installed packages, or in files named.

A package announces a module that registers on import, in its pyproject.toml:

    [project.entry-points."foveate.methods"]
    mine = "my_package.method"

and so with "foveate.runtimes", "foveate.adapters", "foveate.attention" and "foveate.linears". A file is named with
`--plugin FILE`, or in the variable FOVEATE_PLUGINS, which the processes of runtimes inherit.
"""

import importlib.util
import logging
import os
import re
import sys
from importlib.metadata import entry_points
from pathlib import Path

from foveate.errors import InputError

log = logging.getLogger(__name__)

VARIABLE = "FOVEATE_PLUGINS"


def names(group: str) -> list[str]:
    """What installed packages announce there, without importing it."""
    return [point.name for point in entry_points(group=group)]


def load(group: str) -> None:
    """Import what installed packages announce in `group`, and the files named. One that fails is told, and left out."""
    for point in entry_points(group=group):
        try:
            point.load()
        except Exception as e:  # somebody else's module may raise anything, and must not take the others with it
            log.error("plugin %s (%s) is left out: %s: %s", point.name, point.value, type(e).__name__, e)
    adapters = sys.modules.get("foveate.adapters")
    if group != "foveate.adapters" and adapters is not None and not hasattr(adapters, "adapt"):
        return  # they are being imported, and a file may want them: they ask for it themselves when they are there
    for file in files():
        run(file)


def files() -> list[Path]:
    return [Path(word) for word in os.environ.get(VARIABLE, "").split(os.pathsep) if word]


def add(file: str | Path) -> None:
    """Name a file, for this process and those it starts; it is run when a registry is first asked for.

    Raises:
        InputError: no such file.
    """
    path = Path(file).absolute()
    if not path.is_file():
        raise InputError(f"--plugin {file}: no such file")
    if path not in files():
        os.environ[VARIABLE] = os.pathsep.join(map(str, [*files(), path]))


def run(path: Path) -> None:
    """Import a file once; what it registers is then known.

    Raises:
        InputError: it cannot be read, or raises.
    """
    name = "_foveate_plugin_" + re.sub(r"\W", "_", str(path))  # the same in every process
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"plugin {path} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        del sys.modules[name]
        raise InputError(f"plugin {path} cannot be imported: {type(e).__name__}: {e}") from None

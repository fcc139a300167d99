"""A model that a Python file of the user's makes: FILE:FUNCTION, as gunicorn and uvicorn name things in files."""

import importlib.util
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from foveate.errors import InputError
from foveate.loading.paths import script_parts
from foveate.preprocess import Preprocess


class Made(NamedTuple):
    """What the function returned."""

    model: nn.Module
    preprocess: Preprocess | Mapping[str, Any] | None


def from_script(where: str) -> Made:
    """Call `FUNCTION` of `FILE`, without arguments: it returns a model, or a model and its preprocessing.

    The file is run as it stands, its folder first in `sys.path` as with `python FILE`: only for files you trust.

    Raises:
        InputError: no such file or function, or something else returned.
    """
    path, function = script_parts(where)
    spec = importlib.util.spec_from_file_location(f"_foveate_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"--model-script {where!r}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses and pickles look their module up
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
        build = getattr(module, function, None)
        if not callable(build):
            names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise InputError(f"--model-script {where!r}: {path} has no function {function}; it has {', '.join(names)}")
        made = build()
    finally:
        sys.path.remove(str(path.resolve().parent))
    model, preprocess = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module) or not isinstance(preprocess, Preprocess | Mapping | None):
        got = ", ".join(type(part).__name__ for part in (made if isinstance(made, tuple) else (made,)))
        raise InputError(
            f"--model-script {where!r} returned {got}; allowed: a torch module, or it and a dict of preprocessing"
        )
    return Made(model, preprocess)

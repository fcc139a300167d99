"""What a caller says of a model, checked before anything is fetched or filled: its name, options and kind of output."""

import difflib
import inspect
from collections.abc import Mapping

import torch

from foveate.adapters import describe
from foveate.errors import InputError, one_of
from foveate.facts import OUTPUTS, Facts, Outputs
from foveate.loading.bundled import BUNDLED, BUNDLED_KWARGS
from foveate.loading.create import create
from foveate.plans import Kwarg


def checked(name: str, kwargs: Mapping[str, Kwarg], outputs: str | None) -> tuple[dict[str, Kwarg], Outputs]:
    """The model's arguments, and what it answers with, once a sketch of it without memory shows that foveate supports
    it; before any download."""
    import timm

    import foveate.models  # noqa: F401  puts ours into timm's registry

    kwargs = {**BUNDLED_KWARGS, **kwargs} if name == BUNDLED else dict(kwargs)
    own = timm.is_model(name) and timm.model_entrypoint(name).__module__.startswith("foveate.")
    for key, value in kwargs.items():
        listed = isinstance(value, list | tuple) and all(isinstance(v, int) for v in value)
        if not isinstance(value, bool | int | float | str) and not (own and listed):
            more = ", or a list of whole numbers" if own else ""
            raise InputError(f"model option {key}={value!r}; allowed: true, false, a number or a word{more}")
        if key in inspect.signature(timm.create_model).parameters:  # would name files to read
            raise InputError(f"model option {key} is timm's own; allowed: arguments of the model, such as img_size")
    if type(count := kwargs.get("num_classes", 0)) is not int or count < 0:
        raise InputError(f"model option num_classes={count!r}; allowed: a whole number, 0 for no classifier")
    if name != BUNDLED and not timm.is_model(name):
        near = difflib.get_close_matches(name, [BUNDLED, *timm.list_models()], n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {BUNDLED} and timm's models"
        raise InputError(f"unknown model {name!r}; {hint}")
    with torch.device("meta"):
        sketch = create(name, kwargs)
        if getattr(sketch, "dynamic_img_size", False) and "dynamic_img_size" not in kwargs:
            # Some of timm's models (DINOv3) take any image size by default; a schedule needs one.
            kwargs["dynamic_img_size"] = False
            sketch = create(name, kwargs)
    return kwargs, _outputs(describe(sketch), outputs)


def _outputs(facts: Facts, asked: str | None) -> Outputs:
    """What the model answers with, its user's word being checked against the shape of its outputs."""
    if asked is None:
        return facts.outputs
    allowed: tuple[Outputs, ...] = ("masks",) if facts.outputs == "masks" else ("classes", "embedding")
    if not facts.classes:
        allowed = ("embedding",)
    elif facts.classes == 1:  # of one channel, all directions are alike
        allowed = tuple(kind for kind in allowed if kind != "embedding")
    if asked not in OUTPUTS:
        raise one_of("outputs", asked, OUTPUTS)
    if asked not in allowed:
        what = f"{facts.classes} {'masks' if facts.outputs == 'masks' else 'values'}" if facts.classes else "no classes"
        raise InputError(f"outputs is {asked!r}, and this {facts.family} has {what}; allowed: {', '.join(allowed)}")
    return next(kind for kind in allowed if kind == asked)

"""What a caller says of a model, checked before anything is fetched or filled: its name, options and kind of output."""

import difflib
import inspect
from collections.abc import Collection, Mapping
from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from foveate.adapters import ADAPTERS, describe
from foveate.errors import InputError, one_of
from foveate.facts import OUTPUTS, Facts, Outputs
from foveate.loading.bundled import BUNDLED, BUNDLED_KWARGS
from foveate.loading.create import create
from foveate.loading.suggest import nearest_names
from foveate.plans import Kwarg

# Past these it would take minutes, or all memory, to find out that there is no such model.
MOST = {"depth": 512, "img_size": 8192, "embed_dim": 65_536, "num_heads": 4096, "patch_size": 4096, "in_chans": 4096}
MOST_OF_ANY = 10_000_000

# The last layers of classifiers and decoders: as many rows as classes.
HEADS = ("head.weight", "process_head.weight", "decoder.mask_norm.weight", "decoder.final_conv.weight")


def checked(name: str, kwargs: Mapping[str, Kwarg], outputs: str | None) -> tuple[dict[str, Kwarg], Outputs]:
    """The model's arguments, and what it answers with, once a sketch of it without memory shows that foveate supports
    it; before any download."""
    import timm

    import foveate.models  # noqa: F401  puts ours into timm's registry

    kwargs = {**BUNDLED_KWARGS, **kwargs} if name == BUNDLED else dict(kwargs)
    for key, value in kwargs.items():
        listed = isinstance(value, list | tuple) and all(type(v) is int for v in value)
        if not isinstance(value, bool | int | float | str) and not listed:
            raise InputError(
                f"model option {key}={value!r}; allowed: true, false, a number, a word or whole numbers with commas"
            )
        if key in inspect.signature(timm.create_model).parameters:  # would name files to read
            raise InputError(f"model option {key} is timm's own; allowed: arguments of the model, such as img_size")
        # A list of what is known, not of what is bad: timm passes on what it does not know, and more with each version.
        if key not in (known := options_of_models()):
            raise InputError(f"unknown model option {key!r}; {nearest(key, known)}")
        numbers = value if isinstance(value, list | tuple) else [value] if type(value) is int else []
        if bad := [v for v in numbers if abs(v) > MOST.get(key, MOST_OF_ANY)]:
            raise InputError(f"model option {key}={bad[0]}; allowed: at most {MOST.get(key, MOST_OF_ANY):,}")
    if type(count := kwargs.get("num_classes", 0)) is not int or count < 0:
        raise InputError(f"model option num_classes={count!r}; allowed: a whole number, 0 for no classifier")
    if name != BUNDLED and not timm.is_model(name):
        raise InputError(f"unknown model {name!r}; {nearest_names(name)}")
    with torch.device("meta"):
        sketch = create(name, kwargs)
        if getattr(sketch, "dynamic_img_size", False) and "dynamic_img_size" not in kwargs:
            # Some of timm's models (DINOv3) take any image size by default; a schedule needs one.
            kwargs["dynamic_img_size"] = False
            sketch = create(name, kwargs)
    return kwargs, outputs_of(describe(sketch), outputs)


@cache
def options_of_models() -> frozenset[str]:
    """The arguments of all model classes that have an adapter."""
    found = set[str]()
    for name in ADAPTERS:
        module, _, cls = name.rpartition(".")
        found |= inspect.signature(getattr(import_module(module), cls)).parameters.keys()
    return frozenset(found - {"kwargs", "args"})


def nearest(key: str, known: Collection[str]) -> str:
    """Which option may have been meant, or which there are."""
    if close := difflib.get_close_matches(key, known, n=3):
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(sorted(known))}"


def read_off(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], kwargs: Mapping[str, Kwarg]
) -> tuple[dict[str, Kwarg], list[str]]:
    """Options that a file of weights tells of its model, where the caller does not: classes, channels, pooling.

    And lines for the user of those that are not what the model has by default. `own`: the model's tensors at `kwargs`.
    """
    found, said = dict[str, Kwarg](), list[str]()
    if "num_classes" not in kwargs and (last := next((k for k in HEADS if k in state), None)):
        found["num_classes"] = state[last].shape[0]
    patches = "patch_embed.proj.weight"
    if "in_chans" not in kwargs and patches in own and state.get(patches, own[patches]).ndim == 4:
        channels = state.get(patches, own[patches]).shape[1]
        if channels != own[patches].shape[1]:
            found["in_chans"] = channels
            said.append(f"built for {channels} channels, as its {patches} is")
    pooled, plain = "fc_norm.weight", "norm.weight"
    if "global_pool" not in kwargs and pooled in state and plain not in state and plain in own and pooled not in own:
        found["global_pool"] = "avg"
        said.append("built with global_pool=avg: it has fc_norm in the place of norm")
    return found, said


def sketched(name: str, kwargs: Mapping[str, Kwarg]) -> dict[str, Tensor]:
    """The model's tensors without memory, as far as its options are known; none for an unknown model."""
    import timm

    import foveate.models  # noqa: F401  puts ours into timm's registry

    if name != BUNDLED and not timm.is_model(name):
        return {}
    with torch.device("meta"):
        try:
            return dict(create(name, {**BUNDLED_KWARGS, **kwargs} if name == BUNDLED else kwargs).state_dict())
        except InputError:  # told when the options are checked
            return {}


def outputs_of(facts: Facts, asked: str | None) -> Outputs:
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

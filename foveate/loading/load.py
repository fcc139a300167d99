"""From a name to a model: the bundled classifier, timm's hub, a file of weights, or random weights for latency work."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from foveate.adapters import describe
from foveate.errors import InputError
from foveate.loading.bundled import BUNDLED as BUNDLED
from foveate.loading.bundled import BUNDLED_CLASSES, BUNDLED_CROP, BUNDLED_KWARGS, bundled_state
from foveate.loading.card import Card
from foveate.loading.create import create
from foveate.loading.hub import from_hub
from foveate.loading.weights import check_finite, filled, read_weights
from foveate.loading.weights import sha256_of as sha256_of
from foveate.plans import Kwarg, ModelRef
from foveate.preprocess import Preprocess

RANDOM_NOTE = (
    "random weights: latencies are real, but predictions and every figure of accuracy or agreement mean nothing"
)

CLASSIFIERS = ("head.weight", "process_head.weight", "decoder.mask_norm.weight")  # as many rows as classes
Origin = Literal["bundled", "hub", "file", "random", "object"]


@dataclass(frozen=True)
class Loaded:
    """A model ready to be reduced, and what has to travel with it."""

    model: nn.Module  # in eval mode
    ref: ModelRef
    preprocess: Preprocess
    classes: tuple[str, ...] | None
    note: str | None = None  # to be shown loudly


def load(
    name: str = BUNDLED,
    *,
    weights: Path | str | None = None,
    random_weights: bool = False,
    allow_pickle: bool = False,
    seed: int = 0,
    **kwargs: Kwarg,
) -> Loaded:
    """Build a supported model and fill it with weights.

    Args:
        name: `clothing_vit` (ships with foveate), a timm model, with a tag or not (`deit_tiny_patch16_224.fb_in1k`),
            or a folder that `foveate train` wrote, which brings weights, preprocessing and class names.
        weights: a safetensors file that fits exactly; the number of classes is read off its head. Without it, and
            without `random_weights`, a timm model's weights come from timm's hub or its cache.
        random_weights: seeded random weights: right for latencies, meaningless for anything else.
        allow_pickle: also take .pth, .pt and .bin files. Unpickling can run code: only for files you trust.
        seed: of the random weights.
        kwargs: further arguments of the timm model, for instance `img_size=384`.

    Raises:
        InputError: unknown name or option, unsupported class; weights missing, broken, not finite or not fitting.
        NotAvailable: the hub cannot be reached and the weights are not in its cache.
    """
    if weights is not None and random_weights:
        raise InputError("give either a file of weights or --random-weights, not both")
    card = Card.read(folder) if (folder := Path(name)).is_dir() else None
    if card is not None:
        if weights is not None or random_weights:
            raise InputError(f"{folder} is a training run and has weights; allowed beside it: no other weights")
        if card.model is None:
            raise InputError(f"{folder}: its recipe made the model in Python; only a model with a name can be loaded")
        name, weights = card.model, Card.files(folder).weights
        kwargs = {**card.options, "num_classes": card.count, "img_size": card.image_size, **kwargs}
    state = None if weights is None else read_weights(weights, allow_pickle=allow_pickle)
    if state is not None and "num_classes" not in kwargs and (last := [k for k in CLASSIFIERS if k in state]):
        kwargs["num_classes"] = state[last[0]].shape[0]
    kwargs = _checked(name, kwargs)
    origin: Origin
    if random_weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, origin = create(name, kwargs), "random"
    elif state is not None:
        model, origin = filled(create(name, kwargs), state, str(weights)), "file"
    elif name == BUNDLED:
        model, origin = filled(create(name, kwargs), bundled_state(), f"the weights of {BUNDLED}"), "bundled"
    else:
        model, origin = from_hub(name, kwargs), "hub"
        tag = getattr(model, "pretrained_cfg", {}).get("tag")
        name = f"{name.partition('.')[0]}.{tag}" if tag else name  # a default tag may change with timm's version
    model.eval()
    check_finite(model.state_dict(), name)
    return Loaded(
        model=model,
        ref=model_ref(model, name, origin, kwargs),
        preprocess=_preprocess(name, model) if card is None else card.preprocess,
        classes=_classes(name, model) if card is None else None if isinstance(card.classes, int) else card.classes,
        note=RANDOM_NOTE if random_weights else None,
    )


def model_ref(
    model: nn.Module, name: str | None = None, weights: Origin = "object", kwargs: Mapping[str, Kwarg] | None = None
) -> ModelRef:
    """What a plan writes down of a model; for one that the caller built, `model_ref(model)`."""
    facts = describe(model)
    return ModelRef(
        name=name or facts.family,
        weights=weights,
        sha256=sha256_of(model),
        kwargs=dict(kwargs or {}),
        tokens=facts.tokens,
        depth=facts.depth,
        prefix=facts.prefix,
    )


def _checked(name: str, kwargs: Mapping[str, Kwarg]) -> dict[str, Kwarg]:
    """The model's arguments, once a sketch of it without memory shows that foveate supports it; before any download."""
    import timm

    import foveate.models  # noqa: F401  puts ours into timm's registry

    kwargs = {**BUNDLED_KWARGS, **kwargs} if name == BUNDLED else dict(kwargs)
    own = timm.is_model(name) and timm.model_entrypoint(name).__module__.startswith("foveate.")
    for key, value in kwargs.items():
        listed = isinstance(value, list | tuple) and all(isinstance(v, int) for v in value)
        if not isinstance(value, bool | int | float | str) and not (own and listed):
            more = ", or a list of whole numbers" if own else ""
            raise InputError(f"model option {key}={value!r}; allowed: true, false, a number or a word{more}")
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
    describe(sketch)
    return kwargs


def _preprocess(name: str, model: nn.Module) -> Preprocess:
    image = describe(model).image
    if name == BUNDLED:
        half = (0.5, 0.5, 0.5)
        return Preprocess(size=image[1:], crop_pct=BUNDLED_CROP, interpolation="bicubic", mean=half, std=half)
    from timm.data.config import resolve_model_data_config

    # timm answers with the size of the weights' training; the model may have been built for another.
    return Preprocess.from_timm({**resolve_model_data_config(model), "input_size": image})


def _classes(name: str, model: nn.Module) -> tuple[str, ...] | None:
    count = describe(model).classes
    if name == BUNDLED and count == len(BUNDLED_CLASSES):
        return BUNDLED_CLASSES
    if count != 1000:
        return None
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    return tuple(info.index_to_description(i) for i in range(count))

"""From a name to a model: the bundled classifier, timm's hub, a file of weights, or random weights for latency work."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from foveate.adapters import describe
from foveate.errors import InputError
from foveate.facts import Outputs
from foveate.loading.adjust import adjusted
from foveate.loading.bundled import BUNDLED as BUNDLED
from foveate.loading.bundled import BUNDLED_CLASSES, BUNDLED_CROP, bundled_state
from foveate.loading.card import Card
from foveate.loading.checks import checked
from foveate.loading.create import create
from foveate.loading.hub import from_hub
from foveate.loading.weights import check_finite, filled, read_weights
from foveate.loading.weights import sha256_of as sha256_of
from foveate.plans import Kwarg, ModelRef
from foveate.preprocess import Preprocess

RANDOM_NOTE = (
    "random weights: latencies are real, but predictions and every figure of accuracy or agreement mean nothing"
)

# As many rows as classes.
LAST = ("head.weight", "process_head.weight", "decoder.mask_norm.weight", "decoder.final_conv.weight")
Origin = Literal["bundled", "hub", "file", "random", "object"]


@dataclass(frozen=True)
class Loaded:
    """A model ready to be reduced, and what has to travel with it."""

    model: nn.Module  # in eval mode
    ref: ModelRef
    preprocess: Preprocess
    classes: tuple[str, ...] | None
    outputs: Outputs  # what it answers with, by itself or by its user's word
    note: str | None = None  # to be shown loudly
    said: tuple[str, ...] = ()  # what was done to fit the weights to the model, a line each, for the user


def load(
    name: str = BUNDLED,
    *,
    weights: Path | str | None = None,
    random_weights: bool = False,
    allow_pickle: bool = False,
    seed: int = 0,
    outputs: str | None = None,
    **kwargs: Kwarg,
) -> Loaded:
    """Build a supported model and fill it with weights.

    Args:
        name: `clothing_vit` (ships with foveate), a timm model, with a tag or not (`deit_tiny_patch16_224.fb_in1k`),
            or a folder that `foveate train` wrote, which brings weights, preprocessing and class names.
        weights: a safetensors file that fits exactly; the number of classes is read off its head. With `num_classes=0`
            its classifier is left out, and positions of another image size are resampled (`Loaded.said` tells).
            Without it, and without `random_weights`, a timm model's weights come from timm's hub or its cache.
        random_weights: seeded random weights: right for latencies, meaningless for anything else.
        allow_pickle: also take .pth, .pt and .bin files. Unpickling can run code: only for files you trust.
        seed: of the random weights.
        outputs: classes, embedding or masks, where the model alone cannot tell: a metric-learning head of 128
            "classes" is an embedding.
        kwargs: further arguments of the timm model, for instance `img_size=384`.

    Raises:
        InputError: unknown name or option, unsupported class; weights missing, broken, not finite or not fitting;
            `outputs` that the model cannot have.
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
    if state is not None and "num_classes" not in kwargs and (last := [k for k in LAST if k in state]):
        kwargs["num_classes"] = state[last[0]].shape[0]
    kwargs, kind = checked(name, kwargs, outputs)
    origin: Origin
    said: tuple[str, ...] = ()
    if random_weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, origin = create(name, kwargs), "random"
    elif state is not None:
        model, said = _filled(name, kwargs, state, str(weights))
        origin = "file"
    elif name == BUNDLED:
        model, said = _filled(name, kwargs, bundled_state(), f"the weights of {BUNDLED}")
        origin = "bundled"
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
        classes=_classes(name, model) if card is None else _names(card, model),
        outputs=kind,
        note=RANDOM_NOTE if random_weights else None,
        said=said,
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


def _filled(
    name: str, kwargs: Mapping[str, Kwarg], state: Mapping[str, Tensor], where: str
) -> tuple[nn.Module, tuple[str, ...]]:
    model = create(name, kwargs)
    state, said = adjusted(model, state, headless=kwargs.get("num_classes") == 0)
    return filled(model, state, where), tuple(f"{where}: {line}" for line in said)


def _preprocess(name: str, model: nn.Module) -> Preprocess:
    image = describe(model).image
    if name == BUNDLED:
        half = (0.5, 0.5, 0.5)
        return Preprocess(size=image[1:], crop_pct=BUNDLED_CROP, interpolation="bicubic", mean=half, std=half)
    from timm.data.config import resolve_model_data_config

    # timm answers with the size of the weights' training; the model may have been built for another.
    return Preprocess.from_timm({**resolve_model_data_config(model), "input_size": image})


def _names(card: Card, model: nn.Module) -> tuple[str, ...] | None:
    """A training run's classes, unless they were only counted, or the model was built with others."""
    return None if isinstance(card.classes, int) or describe(model).classes != card.count else card.classes


def _classes(name: str, model: nn.Module) -> tuple[str, ...] | None:
    count = describe(model).classes
    if name == BUNDLED and count == len(BUNDLED_CLASSES):
        return BUNDLED_CLASSES
    if count != 1000:
        return None
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    return tuple(info.index_to_description(i) for i in range(count))

"""What a model's configuration says of it: preprocessing, names of its classes, and what a plan writes down."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from foveate.adapters import describe
from foveate.errors import InputError
from foveate.loading.bundled import BUNDLED, BUNDLED_CLASSES, BUNDLED_CROP
from foveate.loading.loaded import Origin
from foveate.loading.weights import sha256_of
from foveate.plans import Kwarg, ModelRef
from foveate.preprocess import Preprocess


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


def preprocess_of(name: str, model: nn.Module, config: Mapping[str, Any] | None = None) -> Preprocess:
    """As the model's weights were trained, at the size it was built for. `config`: timm's, where it came with them."""
    image = describe(model).image
    if name == BUNDLED:
        half = (0.5,) * image[0]
        return Preprocess(size=image[1:], crop_pct=BUNDLED_CROP, interpolation="bicubic", mean=half, std=half)
    from timm.data.config import resolve_data_config

    config = {"input_size": image} | dict(config if config is not None else getattr(model, "pretrained_cfg", {}))
    # timm answers with the size of the weights' training; the model may have been built for another.
    return Preprocess.from_timm({**resolve_data_config({}, pretrained_cfg=config), "input_size": image})


def classes_of(name: str, model: nn.Module, config: Mapping[str, Any] | None = None) -> tuple[str, ...] | None:
    """Names of the classes, where they are known and as many as the model's."""
    count = describe(model).classes
    if name == BUNDLED and count == len(BUNDLED_CLASSES):
        return BUNDLED_CLASSES
    labels = (config or {}).get("label_names")
    if isinstance(labels, list | tuple) and len(labels) == count and all(isinstance(n, str) for n in labels):
        return tuple(labels)
    if count != 1000:
        return None
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    return tuple(info.index_to_description(i) for i in range(count))


def named(model: nn.Module, classes: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names of the classes, as many as there are.

    Raises:
        InputError: another number of them.
    """
    if classes is not None and len(classes) != (count := describe(model).classes):
        raise InputError(f"{len(classes)} class names; allowed: {count}, as many as the model's classes")
    return None if classes is None else tuple(classes)

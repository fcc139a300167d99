"""From a name to a model: the bundled classifier, timm's hub, a file of weights, or random weights for latency work."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveate.adapters import describe
from foveate.attention import Core
from foveate.errors import InputError
from foveate.loading.adjust import adjusted
from foveate.loading.bundled import BUNDLED as BUNDLED
from foveate.loading.bundled import bundled_state
from foveate.loading.card import Card
from foveate.loading.checkpoint import unprefixed
from foveate.loading.checks import checked, read_off, sketched
from foveate.loading.create import create
from foveate.loading.described import classes_of, named, preprocess_of
from foveate.loading.described import model_ref as model_ref
from foveate.loading.hub import from_hub
from foveate.loading.huggingface import from_transformers
from foveate.loading.loaded import RANDOM_NOTE, Origin
from foveate.loading.loaded import Loaded as Loaded
from foveate.loading.names import Source, find
from foveate.loading.objects import hold
from foveate.loading.weights import check_finite, filled, read_weights
from foveate.loading.weights import sha256_of as sha256_of
from foveate.plans import Kwarg
from foveate.preprocess import Preprocess


def load(
    name: str | nn.Module = BUNDLED,
    *,
    weights: Path | str | None = None,
    random_weights: bool = False,
    allow_pickle: bool = False,
    seed: int = 0,
    outputs: str | None = None,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    **kwargs: Kwarg,
) -> Loaded:
    """Build a supported model and fill it with weights, or take one that the caller built.

    Args:
        name: `clothing_vit` (ships with foveate); a timm model, with a tag or not (`deit_tiny_patch16_224.fb_in1k`);
            `hf-hub:ORG/NAME`, `timm/NAME` or the address of a timm model on the hub; a folder that `foveate train` or
            timm's `save_for_hf` wrote (`local-dir:FOLDER` or plain), which brings weights, preprocessing, class names;
            a vision encoder of transformers' by hub id (`google/vit-base-patch16-224`) or from a folder; or a model
            object, which is copied; the vision transformer in a wrapper is taken where it answers alike.
        weights: a file that fits but for what can be read off it: classes, channels and pooling. Wrappers' prefixes are
            taken off, averaged weights preferred, positions of another image size resampled; `Loaded.said` tells. With
            `num_classes=0` its classifier is left out. Without a file, and without `random_weights`, a timm model's
            weights come from timm's hub or its cache.
        random_weights: seeded random weights: right for latencies, meaningless for anything else.
        allow_pickle: unpickle .pth, .pt, .bin and .ckpt files that hold more than tensors and plain values. That can
            run code: only for files you trust.
        seed: of the random weights.
        outputs: classes, embedding or masks, where the model alone cannot tell: a metric-learning head of 128
            "classes" is an embedding.
        preprocess: what differs from the weights' own: `{"mean": (.5, .5, .5), "crop_pct": 1.0}`, or all of it.
        classes: names by output index, where the model does not bring its own.
        kwargs: further arguments of the timm model, for instance `img_size=384` or `img_size=(224, 384)`.

    Raises:
        InputError: unknown name or option, unsupported class; weights missing, broken, not finite or not fitting;
            `outputs` that the model cannot have.
        NotAvailable: the hub cannot be reached and the weights are not in its cache.
    """
    if isinstance(name, nn.Module):
        if weights is not None or random_weights or kwargs:
            more = ", ".join([*(["weights"] if weights is not None or random_weights else []), *kwargs])
            raise InputError(f"a model object is as it is; allowed beside it: no {more}")
        return hold(name, preprocess=preprocess, classes=classes, outputs=outputs)
    if weights is not None and random_weights:
        raise InputError("give either a file of weights or --random-weights, not both")
    source = find(name, weightless=random_weights or weights is not None)
    if source.transformers is not None:
        if weights is not None or kwargs:
            more = ", ".join([*(["weights"] if weights is not None else []), *kwargs])
            raise InputError(f"{name} is a model of transformers' and is as it is; allowed beside it: no {more}")
        return _from_transformers(source, random_weights, allow_pickle, seed, outputs, preprocess, classes)
    if source.card is not None and (weights is not None or random_weights):
        raise InputError(f"{name} is a training run and has weights; allowed beside it: no other weights")
    arch, options, file = source.name, {**source.options, **kwargs}, source.weights if weights is None else weights
    said: tuple[str, ...] = ()
    state = None
    if file is not None and not random_weights:
        state, told = read_weights(file, allow_pickle=allow_pickle)
        own = sketched(arch, options)
        state, more = unprefixed(state, own)
        read, lines = read_off(state, own, options)
        options |= read
        said = tuple(f"{file}: {line}" for line in (*told, *more, *lines))
    options, kind = checked(arch, options, outputs)
    origin: Origin
    shown = arch
    if random_weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, origin = create(arch, options), "random"
    elif state is not None:
        model, more = _filled(arch, options, state, str(file))
        origin, said = "file" if source.shown is None else "hub", said + more
        shown = source.shown or arch
    elif arch == BUNDLED:
        model, more = _filled(arch, options, bundled_state(), f"the weights of {BUNDLED}")
        origin, said = "bundled", said + more
    else:
        model, origin = from_hub(arch, options), "hub"
        tag = getattr(model, "pretrained_cfg", {}).get("tag")
        shown = f"{arch.partition('.')[0]}.{tag}" if tag else arch  # a default tag may change with timm's version
    model.eval()
    check_finite(model.state_dict(), shown)
    if not random_weights:
        for part in model.modules():
            if isinstance(part, Core):
                part.check_ready()
    pixels = source.card.preprocess if source.card is not None else preprocess_of(arch, model, source.config)
    if classes is None:
        classes = _names(source.card, model) if source.card is not None else classes_of(arch, model, source.config)
    return Loaded(
        model=model,
        ref=model_ref(model, shown, origin, options),
        preprocess=pixels.changed(preprocess),
        classes=named(model, classes),
        outputs=kind,
        note=RANDOM_NOTE if random_weights else None,
        said=said,
    )


def _from_transformers(
    source: Source,
    random_weights: bool,
    allow_pickle: bool,
    seed: int,
    outputs: str | None,
    preprocess: Preprocess | Mapping[str, Any] | None,
    classes: Sequence[str] | None,
) -> Loaded:
    """A vision encoder of transformers', as timm's."""
    assert source.transformers is not None and source.shown is not None
    module, pixels, names = from_transformers(
        source.transformers, random_weights=random_weights, allow_pickle=allow_pickle, seed=seed
    )
    given = preprocess.model_dump() if isinstance(preprocess, Preprocess) else dict(preprocess or {})
    held = hold(module, preprocess=pixels | given, classes=classes or names, outputs=outputs)
    ref = held.ref.model_copy(update={"name": source.shown, "weights": "random" if random_weights else "hub"})
    return replace(held, ref=ref, note=RANDOM_NOTE if random_weights else None)


def _filled(
    name: str, kwargs: Mapping[str, Kwarg], state: Mapping[str, Tensor], where: str
) -> tuple[nn.Module, tuple[str, ...]]:
    model = create(name, kwargs)
    state, said = adjusted(model, state, headless=kwargs.get("num_classes") == 0)
    return filled(model, state, where), tuple(f"{where}: {line}" for line in said)


def _names(card: Card, model: nn.Module) -> tuple[str, ...] | None:
    """A training run's classes, unless they were only counted, or the model was built with others."""
    return None if isinstance(card.classes, int) or describe(model).classes != card.count else card.classes

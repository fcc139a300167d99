"""Where a model family meets the methods. One file a family, imported only when a model of it arrives."""

from collections.abc import Iterable
from importlib import import_module

from torch import nn

from foveate import plugins
from foveate.adapters._base import TURN as TURN
from foveate.adapters._base import Backbone, ordered
from foveate.adapters._base import Reduced as Reduced
from foveate.adapters._base import restore as restore
from foveate.errors import InputError
from foveate.facts import Facts as Facts
from foveate.plans import Step

# Class -> adapter, or where in this package it is. A subclass is taken where it overrides nothing that runs.
ADAPTERS: dict[str, str | type[Reduced]] = {
    "timm.models.vision_transformer.VisionTransformer": "timm_vit.TimmViT",
    "timm.models.deit.VisionTransformerDistilled": "timm_vit.TimmViT",
    "timm.models.eva.Eva": "timm_eva.TimmEva",
    "foveate.models.reparameterized.model.ReparameterizedViT": "timm_vit.TimmViT",
    "foveate.models.vittm.model.ViTTM": "vittm.TwoStreams",
    "foveate.models.iret.model.IRET": "iret.Increments",
    "foveate.models.segmenter.model.Segmenter": "masks.Masks",
    "foveate.models.dense.model.DenseViT": "masks.Masks",
}

# What a subclass may override: it builds, fills or describes the model, and runs in no forward pass.
NOT_RUN = frozenset(
    {
        "__init__", "__repr__", "extra_repr", "init_weights", "_init_weights", "fix_init_weight", "load_pretrained",
        "no_weight_decay", "group_matcher", "set_grad_checkpointing", "get_classifier", "reset_classifier",
        "load_state_dict", "state_dict", "train", "prune_intermediate_layers", "set_input_size",
    }
)  # fmt: skip


def adapter_of(model: nn.Module) -> type[Reduced]:
    """The adapter of the model's class.

    Raises:
        InputError: where there is none, or the model has a part that it does not know, or gives no answer.
    """
    adapter = _adapter_of_parts(model)
    adapter.check_answer(model)
    return adapter


def backbone_of(model: nn.Module) -> type[Backbone]:
    """The adapter of a model behind whose tokens a decoder of masks stands.

    Raises:
        InputError: as `adapter_of`, but that it need not answer; for a model without one grid of patches.
    """
    adapter = _adapter_of_parts(model)
    if not issubclass(adapter, Backbone):
        able = [name.rpartition(".")[2] for name, where in ADAPTERS.items() if issubclass(_named(where), Backbone)]
        raise InputError(f"no masks on a {type(model).__name__}; known: {', '.join(able)}")
    return adapter


def _adapter_of_parts(model: nn.Module) -> type[Reduced]:
    name = adapted_class(type(model))
    if name is None:
        raise InputError(f"no adapter for {name_of(type(model))}; known: {', '.join(ADAPTERS)}")
    adapter = _named(ADAPTERS[name])
    adapter.check(model)
    return adapter


def adapted_class(cls: type) -> str | None:
    """The name under which `cls`, or the nearest class it is made of, has an adapter; None where none has.

    Raises:
        InputError: a subclass that overrides what the adapter would run itself, and so might answer otherwise.
    """
    for base in cls.__mro__:
        if (name := name_of(base)) not in ADAPTERS:
            continue
        own = {k for c in cls.__mro__[: cls.__mro__.index(base)] for k, v in vars(c).items() if callable(v)}
        if changed := sorted(own & {k for k in dir(base) if callable(getattr(base, k))} - NOT_RUN):
            raise InputError(
                f"{name_of(cls)} overrides {', '.join(changed)} of {name}, which an adapter runs piece by piece; "
                "allowed: subclasses that leave what is run as it is"
            )
        return name
    return None


def name_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _named(where: str | type[Reduced]) -> type[Reduced]:
    if not isinstance(where, str):
        return where
    file, cls = where.split(".")
    return getattr(import_module(f"foveate.adapters.{file}"), cls)


def describe(model: nn.Module) -> Facts:
    """Token counts and sizes of a supported model."""
    return adapter_of(model).describe(model)


def adapt(model: nn.Module, steps: Iterable[Step] = ()) -> Reduced:
    """Wrap `model` so that tokens are reduced as `steps` say; `model` itself is left as it was, and shares its weights.

    A dry run on shapes checks that every block leaves exactly the planned number of tokens.

    Raises:
        InputError: for a class without adapter, a schedule that grows or leaves too few tokens, an unknown method.
    """
    reduced = adapter_of(model)(model, ordered(steps))
    reduced.train(model.training)
    reduced.dry_run()
    return reduced


plugins.load("foveate.adapters")

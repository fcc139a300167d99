"""Where a model family meets the methods. One file a family, imported only when a model of it arrives."""

from collections.abc import Iterable
from importlib import import_module

from torch import nn

from foveate.adapters._base import TURN as TURN
from foveate.adapters._base import Reduced as Reduced
from foveate.adapters._base import ordered
from foveate.adapters._base import restore as restore
from foveate.errors import InputError
from foveate.facts import Facts as Facts
from foveate.plans import Step

# Exact class -> adapter. A subclass may override anything, so it is listed (and tested) or refused.
ADAPTERS = {
    "timm.models.vision_transformer.VisionTransformer": "timm_vit.TimmViT",
    "timm.models.deit.VisionTransformerDistilled": "timm_vit.TimmViT",
    "timm.models.eva.Eva": "timm_eva.TimmEva",
    "foveate.models.vittm.model.ViTTM": "vittm.TwoStreams",
    "foveate.models.iret.model.IRET": "iret.Increments",
    "foveate.models.segmenter.model.Segmenter": "segmenter.Masks",
}


def adapter_of(model: nn.Module) -> type[Reduced]:
    """The adapter of the model's exact class.

    Raises:
        InputError: where there is none, or the model has a part that it does not know.
    """
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    if name not in ADAPTERS:
        raise InputError(f"no adapter for {name}; known: {', '.join(ADAPTERS)}")
    file, cls = ADAPTERS[name].split(".")
    adapter: type[Reduced] = getattr(import_module(f"foveate.adapters.{file}"), cls).of(model)
    adapter.check(model)
    return adapter


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

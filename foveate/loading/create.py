"""From a name and options to a model without weights."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from foveate.errors import InputError
from foveate.loading.bundled import BUNDLED
from foveate.loading.weights import first_line


def create(name: str, kwargs: Mapping[str, Any], pretrained: bool = False) -> nn.Module:
    import timm
    from timm.models.vision_transformer import VisionTransformer

    try:
        return VisionTransformer(**kwargs) if name == BUNDLED else timm.create_model(name, pretrained, **kwargs)
    except InputError:
        raise
    except (
        TypeError,
        ValueError,
        AssertionError,
        RuntimeError,
        ArithmeticError,
        LookupError,
        AttributeError,
        MemoryError,
    ) as e:  # an option's value can be wrong in any way
        options = ", ".join(f"{k}={v}" for k, v in kwargs.items())
        raise InputError(f"cannot build {name}{f' with {options}' if options else ''}: {first_line(e)}") from None

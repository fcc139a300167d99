"""Names for timm's registry, from a table of options."""

import sys
from collections.abc import Mapping
from typing import Any

from timm.models import build_model_with_cfg, register_model
from torch import nn


def register(module: str, cls: type[nn.Module], variants: Mapping[str, Mapping[str, Any]], about: str) -> None:
    """Put `variants`, {timm name: arguments of `cls`}, into timm's registry as functions of `module`.

    Args:
        module: `__name__` of the caller, which holds `default_cfgs`; timm looks for them there.
        about: the docstring of each.
    """
    for name, options in variants.items():

        def create(
            pretrained: bool = False, name: str = name, options: Mapping[str, Any] = options, **kwargs: Any
        ) -> nn.Module:
            return build_model_with_cfg(cls, name, pretrained, **{**options, **kwargs})

        create.__name__ = create.__qualname__ = name
        create.__module__, create.__doc__ = module, about
        setattr(sys.modules[module], name, register_model(create))

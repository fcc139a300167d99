"""A backbone for a model that decodes its patch tokens."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from foveate.errors import InputError


def dense_backbone(
    backbone: str | nn.Module, img_size: int, options: Mapping[str, Any], *, norm: bool, for_what: str
) -> Any:
    """A model of timm's feature interface, without head; `norm`: with its final norm.

    Args:
        backbone: a timm name, or a model with `forward_intermediates` and `feature_info`, built for `img_size` already.
        options: of the timm model that `backbone` names.
        for_what: the caller, for errors.

    Raises:
        InputError: for an unknown name, or a backbone that gives no feature maps.
    """
    if isinstance(backbone, str):
        import timm

        if not timm.is_model(backbone):  # a hub's address would be fetched
            raise InputError(f"unknown backbone {backbone!r}; allowed: a name in timm's registry")
        backbone = timm.create_model(backbone, img_size=img_size, num_classes=0, **options)
    made: Any = backbone
    if not getattr(made, "feature_info", None) or not hasattr(made, "forward_intermediates"):
        raise InputError(f"{type(made).__name__} gives no feature maps; a {for_what} needs forward_intermediates")
    made.prune_intermediate_layers(1, prune_norm=not norm, prune_head=True)  # else parameters without a use
    return made


def check_classes(num_classes: int, for_what: str) -> int:
    """
    Raises:
        InputError: for less than one class.
    """
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
        raise InputError(f"num_classes is {num_classes} in a {for_what}; allowed: 1 or more, a mask each")
    return num_classes


def grid_of(backbone: Any, img_size: int) -> tuple[int, int]:
    """Patches of a square image, in rows and columns."""
    side = int(img_size) // int(backbone.feature_info[-1]["reduction"])
    return side, side

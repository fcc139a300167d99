"""Segmenter: tokens are reduced in its backbone and put back on the grid for the mask transformer.

One class a backbone's adapter; the mixin only opens the way to the backbone and puts the masks at the end.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from foveate.adapters._base import Reduced, known, restore
from foveate.adapters.timm_eva import TimmEva
from foveate.adapters.timm_vit import TimmViT
from foveate.adapters.vittm import TwoStreams
from foveate.errors import InputError
from foveate.facts import Facts
from foveate.models.segmenter import MaskTransformer
from foveate.models.vittm.model import Streams
from foveate.schedule import Schedule, macs
from foveate.tokens import Tokens


class Masks(Reduced):
    """Before the adapter of the backbone, in the order of bases."""

    @classmethod
    def of(cls, model: Any) -> type[Reduced]:
        from foveate.adapters import adapter_of

        inner = adapter_of(model.backbone)
        if inner not in BY_BACKBONE:
            raise InputError(f"no Segmenter on {inner.__name__}; known: {', '.join(c.__name__ for c in BY_BACKBONE)}")
        return BY_BACKBONE[inner]

    @property
    def trunk(self) -> Any:
        return self.host.backbone

    @classmethod
    def check(cls, model: Any) -> None:
        known(model.decoder, (MaskTransformer,), "the decoder")
        super().check(model.backbone)  # type: ignore[safe-super]

    @classmethod
    def describe(cls, model: Any) -> Facts:
        facts = super().describe(model.backbone)  # type: ignore[safe-super]
        return replace(
            facts,
            family=type(model).__name__,
            classes=model.num_classes,
            outputs="masks",
            decoder=decoder_macs(model, facts),
        )

    def embed(self, image: Tensor) -> Tokens:
        tokens = super().embed(image)  # type: ignore[safe-super]
        return self._sourced(tokens) if self.reducers else tokens

    def head(self, tokens: Tokens, weighted: bool) -> Tensor:
        """`weighted` changes nothing: on the grid, a merged token stands once for each of its patches."""
        x = restore(tokens) if self.reducers else tokens.x
        features = x[:, tokens.prefix :]
        if tokens.memory is not None:
            features = self.trunk.joined(Streams(features, tokens.memory))
        return self.host.decode(features)


class MasksOnViT(Masks, TimmViT):
    """A Segmenter on timm's VisionTransformer."""


class MasksOnEva(Masks, TimmEva):
    """A Segmenter on timm's Eva."""


class MasksOnTwoStreams(Masks, TwoStreams):
    """A Segmenter on a ViTTM."""


BY_BACKBONE: dict[type[Reduced], type[Reduced]] = {
    TimmViT: MasksOnViT,
    TimmEva: MasksOnEva,
    TwoStreams: MasksOnTwoStreams,
}


def decoder_macs(model: Any, facts: Facts) -> int:
    """Multiply-accumulates of the mask transformer for one window."""
    d = model.decoder
    width, classes, patches = d.proj_in.out_features, model.num_classes, facts.patches
    tokens = patches + classes
    layers = macs(Schedule.cut(tokens, len(d.blocks), {}, 0), width, patches=0, patch_size=1, classes=0)
    ends = patches * d.proj_in.in_features * width + tokens * width**2
    return layers + ends + patches * classes * width

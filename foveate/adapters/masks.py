"""Masks: tokens are reduced in the backbone and put back on the grid for the decoder behind it.

One adapter for every backbone whose tokens stand on one grid: it holds the backbone's own, which knows the halves of a
block, and runs them as any other model's.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from torch import Tensor, nn

from foveate.adapters._base import Backbone, Reduced, known
from foveate.facts import Facts
from foveate.models.dense import ConvDecoder
from foveate.models.segmenter import MaskTransformer
from foveate.plans import Step
from foveate.tokens import Signals, Tokens


@final
class Masks(Reduced):
    """Token reduction in the backbone of a Segmenter or a DenseViT."""

    inner: Backbone

    def __init__(self, model: nn.Module, steps: Sequence[Step]) -> None:
        super().__init__(model, steps)
        inner = _adapter(model)(self.host.backbone, steps)
        # Its modules are the host's own and its reducers ours, each under one name; so it is not registered itself.
        self.host.backbone, self.reducers = inner.host, inner.reducers
        object.__setattr__(self, "inner", inner)

    @property
    def trunk(self) -> Any:
        return self.host.backbone

    @classmethod
    def check(cls, model: Any) -> None:
        known(model.decoder, (MaskTransformer, ConvDecoder), "the decoder")
        _adapter(model)

    @classmethod
    def describe(cls, model: Any) -> Facts:
        facts = _adapter(model).describe(model.backbone)
        return replace(
            facts,
            family=type(model).__name__,
            classes=model.num_classes,
            outputs="masks",
            decoder=model.decoder.macs(facts.patches),
        )

    def embed(self, image: Tensor) -> Tokens:
        tokens = self.inner.embed(image)
        return self._sourced(tokens) if self.reducers else tokens

    def attend(self, block: int, tokens: Tokens, bias: Tensor | None) -> Tokens:
        return self.inner.attend(block, tokens, bias)

    def mlp(self, block: int, tokens: Tokens) -> Tokens:
        return self.inner.mlp(block, tokens)

    def signals(self, block: int, tokens: Tokens, bias: Tensor | None, needs: frozenset[str]) -> Signals:
        return self.inner.signals(block, tokens, bias, needs)

    def head(self, tokens: Tokens, weighted: bool) -> Tensor:
        """`weighted` changes nothing: on the grid, a merged token stands once for each of its patches."""
        return self.host.decode(self.inner.dense(tokens))


def _adapter(model: Any) -> type[Backbone]:
    from foveate.adapters import backbone_of

    return backbone_of(model.backbone)

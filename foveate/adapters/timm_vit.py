"""timm's VisionTransformer and its distilled DeiT subclass: ViT, AugReg, DeiT, DeiT-III, CLIP, SigLIP, DINOv2.

Composes timm's own submodules. Restated from timm 1.0.31, `models/vision_transformer.py`: the order of
`forward_features`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.adapters._base import Backbone, Reduced, Tap, on_grid, size_weighted
from foveate.adapters._timm import PlainBlocks, check_ends, check_pooling, facts_of
from foveate.facts import Facts
from foveate.linears import for_inference
from foveate.plans import Step
from foveate.tokens import Signals, Tokens


class TimmViT(Backbone):
    """Token reduction in a timm VisionTransformer."""

    def __init__(self, model: nn.Module, steps: Sequence[Step]) -> None:
        super().__init__(model, steps)
        self.plain = PlainBlocks(self)

    @classmethod
    def check(cls, model: Any) -> None:
        check_ends(model)
        PlainBlocks.check(model.blocks)

    @classmethod
    def check_answer(cls, model: Any) -> None:
        check_pooling(model)

    @classmethod
    def describe(cls, model: Any) -> Facts:
        return facts_of(model, model.patch_embed)

    def for_inference(self) -> Reduced:
        host = for_inference(self.host)
        if host is self.host:
            return self
        for part in host.modules():  # ours, which came along; those of the new wrapper sit on the new layers
            for key in [key for key, hook in part._forward_hooks.items() if isinstance(hook, Tap)]:
                del part._forward_hooks[key]
        return type(self)(host, self.steps).train(self.training)

    def embed(self, image: Tensor) -> Tokens:
        m = self.trunk
        x = m.norm_pre(m.patch_drop(m._pos_embed(m.patch_embed(image))))
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.float32, device=x.device), self.facts.prefix)

    def attend(self, block: int, tokens: Tokens, bias: Tensor | None) -> Tokens:
        return tokens._replace(x=self.plain.attend(block, tokens.x, bias))

    def mlp(self, block: int, tokens: Tokens) -> Tokens:
        return tokens._replace(x=self.plain.mlp(block, tokens.x))

    def signals(self, block: int, tokens: Tokens, bias: Tensor | None, needs: frozenset[str]) -> Signals:
        return self.plain.signals(block, bias, needs)

    def dense(self, tokens: Tokens) -> Tensor:
        return on_grid(tokens._replace(x=self.trunk.norm(tokens.x)))

    def head(self, tokens: Tokens, weighted: bool) -> Tensor:
        m = self.trunk
        tokens = tokens._replace(x=m.norm(tokens.x))
        if weighted and m.attn_pool is not None:
            first = 0 if m.pool_include_prefix else tokens.prefix
            bias = tokens.size[:, first:].log()[:, None, None].to(tokens.x.dtype)
            return m.head(m.head_drop(m.fc_norm(m.attn_pool(tokens.x[:, first:], attn_mask=bias))))
        if weighted and m.global_pool == "avg":
            return m.forward_head(size_weighted(tokens, m.pool_include_prefix))
        return m.forward_head(tokens.x)

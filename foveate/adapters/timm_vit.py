"""timm's VisionTransformer and its distilled DeiT subclass: ViT, AugReg, DeiT, DeiT-III, CLIP, SigLIP, DINOv2.

Composes timm's own submodules. Restated from timm 1.0.31, `models/vision_transformer.py`: the two residual lines of
`Block.forward` and the order of `forward_features`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from foveate.adapters._base import Facts, Reduced, Tap, known, size_weighted
from foveate.adapters._timm import MLPS, check_ends, facts_of, signals_of, taps_of
from foveate.plans import Step
from foveate.tokens import Signals, Tokens


class TimmViT(Reduced):
    """Token reduction in a timm VisionTransformer."""

    def __init__(self, model: nn.Module, steps: Sequence[Step]) -> None:
        super().__init__(model, steps)
        self.taps: dict[int, tuple[Tap, Tap, Tap]] = {
            int(name): taps_of(self.host.blocks[int(name)].attn)
            for name, reducer in self.reducers.items()
            if reducer.needs
        }

    @classmethod
    def check(cls, model: Any) -> None:
        check_ends(model)
        for i, block in enumerate(model.blocks):
            known(block, (Block,), f"block {i}")
            known(block.attn, (Attention,), f"the attention of block {i}")
            known(block.mlp, MLPS, f"the MLP of block {i}")

    @classmethod
    def describe(cls, model: Any) -> Facts:
        return facts_of(model)

    def embed(self, image: Tensor) -> Tokens:
        m = self.host
        x = m.norm_pre(m.patch_drop(m._pos_embed(m.patch_embed(image))))
        return Tokens(x, torch.ones(x.shape[:2], dtype=torch.float32, device=x.device), self.facts.prefix)

    def attend(self, block: int, tokens: Tokens, bias: Tensor | None) -> Tokens:
        b = self.host.blocks[block]
        return tokens._replace(x=tokens.x + b.drop_path1(b.ls1(b.attn(b.norm1(tokens.x), attn_mask=bias))))

    def mlp(self, block: int, tokens: Tokens) -> Tokens:
        b = self.host.blocks[block]
        return tokens._replace(x=tokens.x + b.drop_path2(b.ls2(b.mlp(b.norm2(tokens.x)))))

    def signals(self, block: int, tokens: Tokens, bias: Tensor | None, needs: frozenset[str]) -> Signals:
        attn, share = self.host.blocks[block].attn, block / self.facts.depth
        return signals_of(self.taps[block], attn.scale, bias, needs, share) if needs else Signals(depth=share)

    def head(self, tokens: Tokens, weighted: bool) -> Tensor:
        m = self.host
        tokens = tokens._replace(x=m.norm(tokens.x))
        if weighted and m.attn_pool is not None:
            first = 0 if m.pool_include_prefix else tokens.prefix
            bias = tokens.size[:, first:].log()[:, None, None].to(tokens.x.dtype)
            return m.head(m.head_drop(m.fc_norm(m.attn_pool(tokens.x[:, first:], attn_mask=bias))))
        if weighted and m.global_pool == "avg":
            return m.forward_head(size_weighted(tokens, m.pool_include_prefix))
        return m.forward_head(tokens.x)

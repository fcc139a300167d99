"""timm's Eva: EVA-02, DINOv3, the RoPE ViTs and the Perception Encoders.

Composes timm's own submodules. Restated from timm 1.0.31, `models/eva.py`: the residual lines of `EvaBlock.forward` and
the order of `forward_features`. A rotary embedding [P E] is the same for every image until patches are removed; from
the start it is carried as [B P E] in `Tokens.rope`, which methods gather along with the patches, and handed to timm's
attention as [B 1 P E], the form timm itself uses under patch dropout. The rotation is element-wise, so a dense run is
equal bit for bit. Mixed RoPE learns an embedding for every block and head: there `Tokens.rope` carries the patches'
grid coordinates [B P 2], and every block turns them into its own embedding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.attention import AttentionRope
from timm.layers.pos_embed_sincos import (
    RotaryEmbeddingCat,
    RotaryEmbeddingDinoV3,
    RotaryEmbeddingMixed,
    apply_rot_embed_cat,
    get_mixed_freqs,
)
from timm.models.eva import EvaAttention, EvaBlock
from torch import Tensor, nn

from foveate.adapters._base import Backbone, Tap, attention_rows, known, on_grid, size_weighted
from foveate.adapters._timm import check_blocks, check_ends, check_pooling, facts_of
from foveate.errors import InputError
from foveate.facts import Facts
from foveate.plans import Step
from foveate.tokens import Signals, Tokens


class TimmEva(Backbone):
    """Token reduction in a timm Eva."""

    def __init__(self, model: nn.Module, steps: Sequence[Step]) -> None:
        super().__init__(model, steps)
        self.taps = {}
        for name, reducer in self.reducers.items():
            if reducer.needs:
                block = self.trunk.blocks[int(name)]
                self.taps[int(name)] = Tap(block.attn.q_norm), Tap(block.attn.k_norm), Tap(block.norm1)

    @classmethod
    def check(cls, model: Any) -> None:
        check_ends(model)
        check_blocks(model.blocks, EvaBlock, EvaAttention, AttentionRope)
        for i, block in enumerate(model.blocks):
            if getattr(block.attn, "num_kv_groups", 1) > 1:
                raise InputError(
                    f"the attention of block {i} is grouped ({block.attn.num_heads} query heads on "
                    f"{block.attn.num_kv_heads} key heads), which is not supported; known here: as many keys as queries"
                )
        if model.rope is not None:
            known(model.rope, (RotaryEmbeddingCat, RotaryEmbeddingDinoV3, RotaryEmbeddingMixed), "the rotary embedding")
            if model.rope_mixed and getattr(model.rope, "aug_active", False):
                raise InputError("mixed RoPE with shifted or rescaled coordinates in training is not supported")

    @classmethod
    def check_answer(cls, model: Any) -> None:
        check_pooling(model)

    @classmethod
    def describe(cls, model: Any) -> Facts:
        return facts_of(model, model.patch_embed)

    def embed(self, image: Tensor) -> Tokens:
        m = self.trunk
        x, rope = m._pos_embed(m.patch_embed(image))
        x = m.norm_pre(x)
        if m.rope_mixed:
            rope = torch.stack([m.rope.t_x, m.rope.t_y], dim=-1)
        size = torch.ones(x.shape[:2], dtype=torch.float32, device=x.device)
        rope = None if rope is None else rope.expand(len(x), -1, -1)
        return Tokens(x, size, self.facts.prefix, rope=rope)

    def attend(self, block: int, tokens: Tokens, bias: Tensor | None) -> Tokens:
        b = self.trunk.blocks[block]
        y = b.attn(b.norm1(tokens.x), rope=self._rope(block, tokens), attn_mask=bias)
        if b.gamma_1 is not None:
            y = b.gamma_1 * y
        return tokens._replace(x=tokens.x + b.drop_path1(y))

    def mlp(self, block: int, tokens: Tokens) -> Tokens:
        b = self.trunk.blocks[block]
        y = b.mlp(b.norm2(tokens.x))
        if b.gamma_2 is not None:
            y = b.gamma_2 * y
        return tokens._replace(x=tokens.x + b.drop_path2(y))

    def signals(self, block: int, tokens: Tokens, bias: Tensor | None, needs: frozenset[str]) -> Signals:
        depth = block / self.facts.depth
        if not needs:
            return Signals(depth=depth)
        q, k, y = (tap.take() for tap in self.taps[block])
        attn, rope = self.trunk.blocks[block].attn, self._rope(block, tokens)
        row = rows = None
        if needs & {"class_row", "attention"}:
            turned = self._turn(k, rope, attn)
            if "class_row" in needs:  # the class token comes first and is not rotated
                row = attention_rows(q[:, :, :1], turned, attn.scale, bias)[:, :, 0]
            if "attention" in needs:
                rows = attention_rows(self._turn(q, rope, attn), turned, attn.scale, bias)
        values = _values(attn, y) if "values" in needs else None
        return Signals(k if "keys" in needs else None, values, row, rows, depth)

    def dense(self, tokens: Tokens) -> Tensor:
        return on_grid(tokens._replace(x=self.trunk.norm(tokens.x)))

    def head(self, tokens: Tokens, weighted: bool) -> Tensor:
        m = self.trunk
        tokens = tokens._replace(x=m.norm(tokens.x))
        if weighted and m.attn_pool is not None:
            bias = tokens.size.log()[:, None, None].to(tokens.x.dtype)
            return m.head(m.head_drop(m.fc_norm(m.attn_pool(tokens.x, attn_mask=bias))))
        if weighted and m.global_pool == "avg":
            return m.forward_head(size_weighted(tokens, prefix_too=False))
        return m.forward_head(tokens.x)

    def _rope(self, block: int, tokens: Tokens) -> Tensor | None:
        if (tokens.rope is None) != (self.trunk.rope is None):
            raise ValueError("tokens.rope is needed by a host with rotary embeddings, and by no other")
        if tokens.rope is None or not self.trunk.rope_mixed:
            return None if tokens.rope is None else tokens.rope[:, None]
        down, across = tokens.rope[:, None].unbind(-1)  # [B 1 P] each
        return get_mixed_freqs(self.trunk.rope.freqs[:, block], down, across)

    def _turn(self, x: Tensor, rope: Tensor | None, attn: Any) -> Tensor:
        """Rotate the patches of queries or keys [B H N D] as the host does."""
        if rope is None:
            return x
        p, half = self.facts.prefix, getattr(attn, "rotate_half", False)
        return torch.cat([x[:, :, :p], apply_rot_embed_cat(x[:, :, p:], rope, half=half)], dim=2).type_as(x)


def _values(attn: Any, y: Tensor) -> Tensor:
    """Values [B H N D] of normalised tokens y [B N C].

    Computed again, as a fused projection with split biases calls no module that returns them.
    """
    if attn.v_proj is not None:
        v = attn.v_proj(y)
    else:
        third = attn.qkv.weight.shape[0] // 3
        bias = getattr(attn, "v_bias", None)
        if bias is None and attn.qkv.bias is not None:
            bias = attn.qkv.bias[2 * third :]
        v = nn.functional.linear(y, attn.qkv.weight[2 * third :], bias)
    return v.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)

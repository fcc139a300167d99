"""timm's VisionTransformer and its distilled DeiT subclass: ViT, AugReg, DeiT, DeiT-III, CLIP, SigLIP, DINOv2.

Composes timm's own submodules. Restated from timm 1.0.31, `models/vision_transformer.py`: the two residual lines of
`Block.forward` and the order of `forward_features`.
"""

import torch
from timm.layers import Mlp, SwiGLU, SwiGLUPacked
from timm.layers.attention import Attention
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.mlp import GluMlp
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from foveate.adapters._base import Facts, Reduced, Tap, attention_rows, size_weighted
from foveate.errors import InputError
from foveate.tokens import Signals, Tokens

POOLS = ("", "token", "avg", "map")


class TimmViT(Reduced):
    """Token reduction in a timm VisionTransformer."""

    def __init__(self, model: nn.Module, steps) -> None:  # type: ignore[no-untyped-def]
        super().__init__(model, steps)
        self.taps = {}
        for name, reducer in self.reducers.items():
            if reducer.needs:
                attn = self.host.blocks[int(name)].attn
                self.taps[int(name)] = Tap(attn.q_norm), Tap(attn.k_norm), Tap(attn.qkv)

    @classmethod
    def check(cls, model: nn.Module) -> None:
        assert isinstance(model, VisionTransformer)
        for i, block in enumerate(model.blocks):
            if type(block) is not Block:
                raise InputError(f"block {i} is a {type(block).__name__}; known here: Block")
            if type(block.attn) is not Attention:
                raise InputError(f"the attention of block {i} is a {type(block.attn).__name__}; known here: Attention")
            if type(block.mlp) not in (Mlp, GluMlp, SwiGLU, SwiGLUPacked):
                raise InputError(f"the MLP of block {i} is a {type(block.mlp).__name__}; known here: Mlp, GluMlp, SwiGLU")
        if model.global_pool not in POOLS:
            raise InputError(f"pooling {model.global_pool!r} is not supported; known here: {', '.join(POOLS[1:])}")
        if model.attn_pool is not None and (
            type(model.attn_pool) is not AttentionPoolLatent or model.attn_pool.pos_embed is not None
        ):
            raise InputError(f"the attention pooling {type(model.attn_pool).__name__} (or its positions) is not supported")
        if model.dynamic_img_size:
            raise InputError("dynamic_img_size=True is not supported: a schedule needs one image size")

    @classmethod
    def describe(cls, model: nn.Module) -> Facts:
        assert isinstance(model, VisionTransformer)
        patch = model.patch_embed
        return Facts(
            family=type(model).__name__,
            tokens=patch.num_patches + model.num_prefix_tokens,
            depth=len(model.blocks),
            prefix=model.num_prefix_tokens,
            width=model.embed_dim,
            heads=model.blocks[0].attn.num_heads,
            grid=tuple(patch.grid_size),
            image=(patch.proj.in_channels, *patch.img_size),
            patch=tuple(patch.patch_size),
            classes=model.num_classes,
            has_class_token=model.cls_token is not None,
        )

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
        if not needs:
            return Signals(depth=block / self.facts.depth)
        q, k, qkv = (tap.take() for tap in self.taps[block])
        heads, width = q.shape[1], q.shape[-1]
        scale = self.host.blocks[block].attn.scale
        return Signals(
            keys=k if "keys" in needs else None,
            values=qkv.unflatten(-1, (3, heads, width))[:, :, 2].transpose(1, 2) if "values" in needs else None,
            class_row=attention_rows(q[:, :, :1], k, scale, bias)[:, :, 0] if "class_row" in needs else None,
            attention=attention_rows(q, k, scale, bias) if "attention" in needs else None,
            depth=block / self.facts.depth,
        )

    def head(self, tokens: Tokens, weighted: bool) -> Tensor:
        m = self.host
        if weighted and m.attn_pool is not None:
            tokens = tokens._replace(x=m.norm(tokens.x))
            first = 0 if m.pool_include_prefix else tokens.prefix
            bias = tokens.size[:, first:].log()[:, None, None].to(tokens.x.dtype)
            return m.head(m.head_drop(m.fc_norm(m.attn_pool(tokens.x[:, first:], attn_mask=bias))))
        tokens = tokens._replace(x=m.norm(tokens.x))
        if weighted and m.global_pool == "avg":
            return m.forward_head(size_weighted(tokens, m.pool_include_prefix))
        return m.forward_head(tokens.x)


HOSTS = (VisionTransformer, VisionTransformerDistilled)

"""What timm's two transformer classes have in common."""

from typing import Any

from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.layers.patch_embed import PatchEmbed

from foveate.adapters._base import Facts, known
from foveate.errors import InputError

POOLS = ("", "token", "avg", "map")
MLPS = (Mlp, GluMlp, SwiGLU)


def check_ends(model: Any) -> None:
    """Raise InputError, naming the part, for an unknown embedding or pooling, or a token count that is not fixed."""
    known(model.patch_embed, (PatchEmbed,), "the patch embedding")
    if model.global_pool not in POOLS:
        raise InputError(f"pooling {model.global_pool!r} is not supported; known here: {', '.join(POOLS[1:])}")
    if model.attn_pool is not None:
        known(model.attn_pool, (AttentionPoolLatent,), "the attention pooling")
        if model.attn_pool.pos_embed is not None:
            raise InputError("attention pooling with positions of its own is not supported")
    if getattr(model.patch_drop, "prob", 0) > 0:
        raise InputError("patch_drop_rate > 0 is not supported: a schedule needs one token count")
    if model.dynamic_img_size:
        raise InputError("dynamic_img_size=True is not supported: a schedule needs one image size; build it with False")


def facts_of(model: Any) -> Facts:
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

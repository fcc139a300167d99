"""What timm's two transformer classes have in common."""

from typing import Any

from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor

from foveate.adapters._base import Facts, Tap, attention_rows, known
from foveate.errors import InputError
from foveate.tokens import Signals

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


def taps_of(attn: Any) -> tuple[Tap, Tap, Tap]:
    """On queries, keys (both after their norms) and the packed queries, keys and values of timm's `Attention`."""
    return Tap(attn.q_norm), Tap(attn.k_norm), Tap(attn.qkv)


def signals_of(
    taps: tuple[Tap, Tap, Tap], scale: float, bias: Tensor | None, needs: frozenset[str], depth: float
) -> Signals:
    """What these taps hold since the attention ran."""
    q, k, qkv = (tap.take() for tap in taps)
    heads, width = q.shape[1], q.shape[-1]
    return Signals(
        keys=k if "keys" in needs else None,
        values=qkv.unflatten(-1, (3, heads, width))[:, :, 2].transpose(1, 2) if "values" in needs else None,
        class_row=attention_rows(q[:, :, :1], k, scale, bias)[:, :, 0] if "class_row" in needs else None,
        attention=attention_rows(q, k, scale, bias) if "attention" in needs else None,
        depth=depth,
    )

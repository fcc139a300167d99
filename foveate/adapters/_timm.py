"""What hosts made of timm's parts have in common.

Restated from timm 1.0.31, `models/vision_transformer.py`: the two residual lines of `Block.forward`.
"""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.layers.patch_embed import PatchEmbed
from timm.models import get_arch_pretrained_cfgs, is_model
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from foveate.adapters._base import Reduced, Tap, attention_rows, known
from foveate.errors import InputError
from foveate.facts import Facts, Outputs
from foveate.linears import Routed
from foveate.models.reparameterized import CoreAttention
from foveate.tokens import Signals

TOWERS = ("_clip_", "_pe_core_")  # in the names of timm's image towers whose head is a projection
POOLS = ("", "token", "avg", "map")
MLPS = (Mlp, GluMlp, SwiGLU, Routed)


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


def check_pooling(model: Any) -> None:
    """Raise InputError where tokens come out unpooled [B N C]: that is no answer of any kind."""
    if not model.global_pool:
        raise InputError(f"global_pool is '', which gives tokens and no answer; allowed: {', '.join(POOLS[1:])}")


def check_blocks(blocks: Iterable[Any], block: type[nn.Module], *attention: type[nn.Module]) -> None:
    """Raise InputError, naming the part, where a block is of another class than `block`, or holds unknown parts."""
    blocks = list(blocks)
    if not blocks:
        raise InputError("the model has no blocks; allowed: a depth of 1 or more")
    for i, each in enumerate(blocks):
        known(each, (block,), f"block {i}")
        known(each.attn, attention, f"the attention of block {i}")
        known(each.mlp, MLPS, f"the MLP of block {i}")


def outputs_of(model: Any) -> Outputs:
    """What a timm model answers with. One logit alone is a class: yes or no.

    Without a classifier (num_classes=0: DINOv2 and v3, SigLIP's towers, a model whose head was taken off) it is an
    embedding. The image towers of CLIP's kin carry their projection as `head`, and timm calls its width num_classes:
    a model whose pretrained_cfg names such an architecture, and that has as many "classes" as this architecture's
    tags that were not fine-tuned (no `ft` in them), embeds. A tower fine-tuned for labels has another number of them;
    where it happens to have the same, its user has to say so (`load(..., outputs="classes")`).
    """
    count = class_count(model)
    if not count:
        return "embedding"
    config = getattr(model, "pretrained_cfg", None) or {}
    architecture = config.get("architecture") or ""
    if not any(kind in architecture for kind in TOWERS) or not is_model(architecture):
        return "classes"
    tags = {name.partition(".")[2]: each for name, each in get_arch_pretrained_cfgs(architecture).items()}
    projections = {each.num_classes for tag, each in tags.items() if "ft" not in tag.split("_")}
    return "embedding" if count in projections else "classes"


def class_count(model: Any) -> int:
    """How many values the model answers with; 0 without a classifier.

    Its head says so, not `num_classes`: fine-tuning scripts put another layer there and leave that number as it was.

    Raises:
        InputError: a head of the caller's own that does not answer with [n, classes].
    """
    head = getattr(model, "head", None)
    if head is None:  # ViTTM's, of two streams
        return max(0, model.num_classes)
    if isinstance(head, nn.Identity):
        return 0
    if isinstance(head, nn.Linear):
        return head.out_features
    like = next(head.parameters(), torch.empty(0))
    x = torch.zeros(
        2, getattr(model, "head_hidden_size", None) or model.embed_dim, device=like.device, dtype=like.dtype
    )
    kind = type(head).__name__
    try:
        with torch.no_grad():
            found = deepcopy(head).eval()(x)
    except Exception as e:  # somebody else's layer
        raise InputError(f"the head, a {kind}, fails on pooled tokens {list(x.shape)}: {e}") from None
    if not isinstance(found, Tensor) or found.ndim != 2:
        what = f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise InputError(f"the head, a {kind}, answers with {what}; allowed: [n, classes]")
    return found.shape[1]


def facts_of(model: Any, patch: Any, **more: Any) -> Facts:
    """Of a host whose reduced tokens are cut by `patch`, timm's PatchEmbed; `more` goes to Facts as it is."""
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
        classes=class_count(model),
        outputs=outputs_of(model),
        has_class_token=getattr(model, "cls_token", None) is not None,
        attention=_between(model.blocks),
        **more,
    )


def _between(blocks: Iterable[Any]) -> tuple[tuple[int, int], ...]:
    """Of `Facts.attention`: nothing where all of it is the host's own."""
    parts = [block.attn for block in blocks]
    if not any(isinstance(attn, CoreAttention) for attn in parts):
        return ()
    return tuple(
        attn.core.terms(attn.num_heads, attn.head_dim)
        if isinstance(attn, CoreAttention)
        else (0, 2 * attn.num_heads * attn.head_dim)
        for attn in parts
    )


class PlainBlocks:
    """timm's plain `Block`s of a reduced host, in halves, and what the attention of the reducing ones computes."""

    def __init__(self, reduced: Reduced) -> None:
        self.blocks, self.depth = reduced.trunk.blocks, reduced.facts.depth
        self.taps = {int(b): _taps(self.blocks[int(b)].attn) for b, r in reduced.reducers.items() if r.needs}

    @staticmethod
    def check(blocks: Iterable[Any]) -> None:
        check_blocks(blocks, Block, Attention, CoreAttention)

    def attend(self, block: int, x: Tensor, bias: Tensor | None) -> Tensor:
        """x [B N C], `bias` [B 1 1 N] on the logits."""
        b = self.blocks[block]
        return x + b.drop_path1(b.ls1(b.attn(b.norm1(x), attn_mask=bias)))

    def mlp(self, block: int, x: Tensor) -> Tensor:
        b = self.blocks[block]
        return x + b.drop_path2(b.ls2(b.mlp(b.norm2(x))))

    def signals(self, block: int, bias: Tensor | None, needs: frozenset[str]) -> Signals:
        """What the taps hold since the attention of `block` ran."""
        depth = block / self.depth
        if not needs:
            return Signals(depth=depth)
        q, k, qkv = (tap.take() for tap in self.taps[block])
        attn, heads, width = self.blocks[block].attn, q.shape[1], q.shape[-1]

        def rows(queries: Tensor) -> Tensor:
            if isinstance(attn, CoreAttention):
                return attn.core.rows(queries, k, None if bias is None else bias[:, 0, 0].float().exp())
            return attention_rows(queries, k, attn.scale, bias)

        return Signals(
            keys=k if "keys" in needs else None,
            values=qkv.unflatten(-1, (3, heads, width))[:, :, 2].transpose(1, 2) if "values" in needs else None,
            class_row=rows(q[:, :, :1])[:, :, 0] if "class_row" in needs else None,
            attention=rows(q) if "attention" in needs else None,
            depth=depth,
        )


def _taps(attn: Any) -> tuple[Tap, Tap, Tap]:
    """On queries, keys (both after their norms) and the packed queries, keys and values of timm's `Attention`."""
    return Tap(attn.q_norm), Tap(attn.k_norm), Tap(attn.qkv)

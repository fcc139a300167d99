"""An IRET-style model out of a trained ViT."""

from typing import Any

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from foveate.errors import InputError
from foveate.models.iret.model import IRET


def from_vit(vit: nn.Module, **options: Any) -> IRET:
    """The ViT's own weights, its patch embedding split over the bands: with all detail before block 0 the same model.

    Every exit starts with the ViT's norm and classifier.

    Args:
        vit: timm's VisionTransformer with a class token or mean pooling, absolute positions and ordinary blocks.
        options: further arguments of `IRET`, for instance `transitions=(2, 5, 8)`.

    Raises:
        InputError: for another class, or a part that IRET has not.
    """
    if type(vit) is not VisionTransformer:
        raise InputError(f"from_vit takes timm's VisionTransformer; got a {type(vit).__name__}")
    first: Any = vit.blocks[0]
    averaged = isinstance(vit.fc_norm, nn.LayerNorm)
    wrong = {
        "a patch embedding that is no PatchEmbed": type(vit.patch_embed) is not PatchEmbed,
        "no absolute positions": vit.pos_embed is None,
        "registers": vit.num_prefix_tokens > 1,
        "a position for patches alone": vit.no_embed_class and vit.num_prefix_tokens > 0,
        "a norm before the blocks": not isinstance(vit.norm_pre, nn.Identity),
        f"blocks of class {type(first).__name__}": any(type(b) is not Block for b in vit.blocks),
        f"pooling {vit.global_pool!r}": vit.global_pool != ("token" if vit.num_prefix_tokens else "avg"),
    }
    if found := [what for what, is_so in wrong.items() if is_so]:
        raise InputError(f"from_vit: this VisionTransformer has {found[0]}")
    high, wide = vit.patch_embed.img_size
    if high != wide:
        raise InputError(f"from_vit: images of {high} x {wide}; allowed: square ones")
    made = IRET(
        **{
            "img_size": high, "patch_size": vit.patch_embed.patch_size[0], "num_classes": vit.num_classes,
            "in_chans": vit.patch_embed.proj.in_channels, "embed_dim": vit.embed_dim, "depth": len(vit.blocks),
            "num_heads": first.attn.num_heads, "mlp_ratio": first.mlp.fc1.out_features / vit.embed_dim,
            "init_values": None if isinstance(first.ls1, nn.Identity) else 1.0,
            "class_token": vit.num_prefix_tokens > 0,
        }
        | options
    )  # fmt: skip
    try:
        made.blocks.load_state_dict(vit.blocks.state_dict())
    except RuntimeError as e:
        raise InputError(f"from_vit: the blocks do not fit: {str(e).splitlines()[1].strip()}") from None
    with torch.no_grad():
        old: Any = vit
        proj = old.patch_embed.proj
        made.embed_by(proj.weight, torch.zeros(vit.embed_dim) if proj.bias is None else proj.bias)
        made.pos_embed.copy_(old.pos_embed)
        if made.cls_token is not None:
            made.cls_token.copy_(old.cls_token)
    for norm in (made.norm, *made.exit_norms):
        norm.load_state_dict((vit.fc_norm if averaged else vit.norm).state_dict())
    if isinstance(vit.head, nn.Linear):
        for head in (made.head, *made.exit_heads):
            head.load_state_dict(vit.head.state_dict())
    return made

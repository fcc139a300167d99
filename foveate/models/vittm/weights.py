"""Weights for a ViTTM: out of a ViT, out of the authors' checkpoints, and without the part that nothing reads."""

import logging
import re
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from foveate.errors import InputError
from foveate.models.vittm.model import ViTTM

log = logging.getLogger(__name__)

# The authors' name -> ours. Their linear head's q, k and v stand apart; `proj` is never applied.
AUTHORS = (
    (r"^(process|memory)_embedder\.", r"\1_embed."),
    (r"^(read|write)_head\.(\d+)\.q\.", r"\1.\2.q."),
    (r"^(read|write)_norm\.", r"\1_norm."),
)
WITHOUT_USE = re.compile(r"^(patch_embed\.|cls_token$|pos_embed$|(read|write)_head\.\d+\.proj\.|norm\.|n_averaged$)")


def retrofit(vit: nn.Module, *, patch_size: int = 28, memory_patch_size: int | None = None, **options: Any) -> ViTTM:
    """A ViTTM around the blocks of a trained ViT, to be fine-tuned.

    Blocks and the final norm are copied. Patch embeddings come from the ViT's by FlexiViT's pseudo-inverse resize
    (arXiv:2212.08013), positions by interpolation; heads, their norms and the classifiers start anew (classifiers at
    zero). The class token and registers have no place in it.

    Args:
        vit: timm's VisionTransformer with absolute positions and ordinary blocks.
        options: further arguments of `ViTTM`, for instance `num_classes=10`, `norm="pre"`.

    Raises:
        InputError: for another class, or a part that ViTTM's blocks have not.
    """
    if not isinstance(vit, VisionTransformer):
        raise InputError(f"retrofit takes timm's VisionTransformer; got a {type(vit).__name__}")
    if vit.pos_embed is None:
        raise InputError("retrofit needs absolute positions; this VisionTransformer has none")
    if other := [type(b).__name__ for b in vit.blocks if type(b) is not Block]:
        raise InputError(f"retrofit takes plain blocks; this VisionTransformer has {other[0]}")
    first: Any = vit.blocks[0]
    scale = getattr(first.ls1, "gamma", None)
    made = ViTTM(
        **{
            "img_size": vit.patch_embed.img_size,
            "in_chans": vit.patch_embed.proj.in_channels,
            "num_classes": vit.num_classes,
            "embed_dim": vit.embed_dim,
            "depth": len(vit.blocks),
            "num_heads": first.attn.num_heads,
            "mlp_ratio": first.mlp.fc1.out_features / vit.embed_dim,
            "init_values": None if scale is None else 1.0,
            "patch_size": patch_size,
            "memory_patch_size": memory_patch_size,
        }
        | options
    )
    try:
        made.blocks.load_state_dict(vit.blocks.state_dict())
    except RuntimeError as e:
        raise InputError(f"the blocks of this VisionTransformer do not fit ViTTM's: {_second_line(e)}") from None
    if isinstance(vit.norm, nn.LayerNorm):
        made.process_norm.load_state_dict(vit.norm.state_dict())
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    with torch.no_grad():
        for embed, position in (
            (made.process_embed, made.process_pos_embed),
            (made.memory_embed, made.memory_pos_embed),
        ):
            embed.proj.weight.copy_(resample_patch_embed(vit.patch_embed.proj.weight, list(embed.proj.kernel_size)))
            if vit.patch_embed.proj.bias is not None and embed.proj.bias is not None:
                embed.proj.bias.copy_(vit.patch_embed.proj.bias)
            position.copy_(
                resample_abs_pos_embed(
                    vit.pos_embed[:, prefix:], list(embed.grid_size), list(vit.patch_embed.grid_size),
                    num_prefix_tokens=0,
                )
            )  # fmt: skip
    return made


def from_authors(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The authors' state dict under our names -> (state dict, names of what has no use).

    Takes plain and compiled models' and those of an average (`module.`, `_orig_mod.`); the linear head, add fusion and
    unprocessed memory of the published models.

    Raises:
        InputError: names the first key that is neither known nor known to be without use.
    """
    found, skipped = dict[str, Tensor](), list[str]()
    for key, tensor in state.items():
        name = re.sub(r"^(module\.|_orig_mod\.)+", "", key)
        if WITHOUT_USE.match(name):
            skipped.append(key)
            continue
        for pattern, ours in AUTHORS:
            name = re.sub(pattern, ours, name)
        found[name] = tensor
    for key in [k for k in found if re.search(r"_head\.\d+\.k\.", k)]:
        side = key.replace(".k.", ".v.")
        if side not in found:
            raise InputError(f"these weights have {key} but no {side}")
        fused = re.sub(r"^(read|write)_head\.(\d+)\.k\.", r"\1.\2.kv.", key)
        found[fused] = torch.cat([found.pop(key), found.pop(side)])
    with torch.device("meta"):
        known = ViTTM(embed_dim=8, num_heads=2, depth=_depth(found), num_classes=1).state_dict()
    if unknown := [k for k in found if k not in known]:
        raise InputError(f"unknown weights {', '.join(unknown[:3])}: not a ViTTM with linear heads and add fusion")
    if skipped:
        log.info("left out, since nothing uses them: %s", ", ".join(skipped))
    return found, skipped


def process_only(model: ViTTM) -> ViTTM:
    """Make the process stream's classifier the one that answers, and drop what it does not need, in place.

    That is the last write, the memory's norm and its classifier.
    """
    model.output = "process"
    last = model.depth - 1
    for parts in (model.write, model.write_fusion, model.memory_mlp):
        del parts[last:]
    if model.norm == "pre":
        del model.write_norm[last:]
    model.fc_norm = model.head = None
    return model


def _depth(state: Mapping[str, Tensor]) -> int:
    return 1 + max((int(m[1]) for k in state if (m := re.match(r"blocks\.(\d+)\.", k))), default=0)


def _second_line(e: RuntimeError) -> str:
    """torch names the class in the first line and the first key in the second."""
    return [*str(e).splitlines(), ""][1].strip()

"""A vision transformer whose attention and linear layers are of other arithmetic: ShiftAddViT's, or sigmoid attention.

timm's VisionTransformer with parts swapped by name. `reparameterize` makes one of a trained ViT: same weights where a
part has any, so that fine-tuning starts from what was learnt.
"""

from functools import partial
from typing import Any, final

import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.layers.norm import LayerNorm
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from foveate.attention import CORES
from foveate.errors import InputError
from foveate.linears import LINEARS
from foveate.models.reparameterized.attention import CoreAttention
from foveate.models.reparameterized.spelled import Spelled, spelled, taken
from foveate.plans import Kwarg

ATTENTION, LINEAR, ALL = "softmax", "linear", "all"
ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "ReLU": "relu", "SiLU": "silu"}


@final
class ReparameterizedViT(VisionTransformer):
    """
    Args:
        attention: an attention variant, with options: `sigmoid`, `hashed_linear:quantiser=ksh`; `softmax` for the
            host's own.
        mlp: a linear variant in the place of every MLP's layers: `shift:format=apot2`, `mixture:ratio=2`; `linear` for
            the host's own.
        projections: the same for the linear layers around attention.
        blocks: which blocks are converted: `all`, or as `0-5,8`.
        norm_eps, act: of layer norms, and the MLPs' activation by timm's name.
        options: of timm's VisionTransformer.
    """

    def __init__(
        self, *, attention: str = ATTENTION, mlp: str = LINEAR, projections: str = LINEAR, blocks: str = ALL,
        norm_eps: float = 1e-6, act: str = "gelu", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(norm_layer=partial(LayerNorm, eps=norm_eps), act_layer=act, **options)
        self.convert(attention=attention, mlp=mlp, projections=projections, blocks=blocks)

    def no_weight_decay(self) -> set[str]:
        """Besides timm's: thresholds, signs and exponents, for which smaller is not simpler."""
        own = {n for n, _ in self.named_parameters() if n.rpartition(".")[2] in ("threshold", "sign", "shift")}
        return {*super().no_weight_decay(), *own}

    def convert(
        self, *, attention: str = ATTENTION, mlp: str = LINEAR, projections: str = LINEAR, blocks: str = ALL
    ) -> None:
        """Swap parts in place, weights staying. What a word leaves as it is can be swapped later, not back.

        Raises:
            InputError: an unknown variant or option, a block that is not there, dropout in the attention.
        """
        core = spelled(attention, CORES, ATTENTION)
        inner, around = spelled(mlp, LINEARS, LINEAR), spelled(projections, LINEARS, LINEAR)
        tokens = self.patch_embed.num_patches + self.num_prefix_tokens
        for block in chosen(blocks, len(self.blocks)):
            host: Any = self.blocks[block]
            if core is not None:
                host.attn = _attention(host.attn, core, tokens)
            if around is not None:
                host.attn.qkv, host.attn.proj = _layer(host.attn.qkv, around), _layer(host.attn.proj, around)
            if inner is not None:
                host.mlp = _mlp(host.mlp, inner, self.embed_dim)


def reparameterize(
    model: nn.Module, *, attention: str = ATTENTION, mlp: str = LINEAR, projections: str = LINEAR, blocks: str = ALL
) -> ReparameterizedViT:
    """A converted copy of a trained ViT. Arguments as `ReparameterizedViT` has them.

    Raises:
        InputError: for another class than timm's VisionTransformer (Hugging Face's encoders are loaded as such), a part
            that cannot be told in words, or as `ReparameterizedViT.convert`.

    >>> import timm
    >>> vit = timm.create_model("vit_tiny_patch16_224", depth=2)
    >>> type(reparameterize(vit, attention="sigmoid").blocks[0].attn.core).__name__
    'Sigmoid'
    """
    made = ReparameterizedViT(**options_of(model))  # type: ignore[arg-type]
    made.load_state_dict(model.state_dict())
    made.train(model.training)
    made.convert(attention=attention, mlp=mlp, projections=projections, blocks=blocks)
    config: Any = dict(getattr(model, "pretrained_cfg", None) or {}, architecture=None)
    made.pretrained_cfg = config
    first = next(model.parameters())
    return made.to(device=first.device, dtype=first.dtype)


def options_of(model: Any) -> dict[str, Kwarg]:
    """The arguments of `ReparameterizedViT` that build `model` again, unconverted.

    Raises:
        InputError: another class, or one of its parts has no word here.
    """
    if type(model) is not VisionTransformer:
        raise InputError(
            f"only timm's VisionTransformer can be converted, this is a {type(model).__name__}; Hugging Face's ViT, "
            "CLIP, SigLIP and DINOv2 are loaded as one"
        )
    _plain(model)
    first: Any = model.blocks[0]
    norm: Any = next(m for m in (model.norm, model.fc_norm, first.norm1) if not isinstance(m, nn.Identity))
    scale = getattr(first.ls1, "gamma", None)
    options: dict[str, Kwarg] = {
        "img_size": tuple(model.patch_embed.img_size),
        "patch_size": _side(model.patch_embed.patch_size),
        "in_chans": model.patch_embed.proj.in_channels,
        "num_classes": 0 if isinstance(model.head, nn.Identity) else model.head.out_features,
        "global_pool": model.global_pool,
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": first.attn.num_heads,
        "mlp_ratio": first.mlp.fc1.out_features / model.embed_dim,
        "qkv_bias": first.attn.qkv.bias is not None,
        "qk_norm": not isinstance(first.attn.q_norm, nn.Identity),
        "scale_attn_norm": not isinstance(first.attn.norm, nn.Identity),
        "scale_mlp_norm": not isinstance(first.mlp.norm, nn.Identity),
        "proj_bias": first.attn.proj.bias is not None,
        "class_token": model.has_class_token,
        "pos_embed": "none" if model.pos_embed is None else "learn",
        "no_embed_class": model.no_embed_class,
        "reg_tokens": model.num_reg_tokens,
        "pre_norm": not isinstance(model.norm_pre, nn.Identity),
        "final_norm": not (isinstance(model.norm, nn.Identity) and isinstance(model.fc_norm, nn.Identity)),
        "fc_norm": not isinstance(model.fc_norm, nn.Identity),
        "pool_include_prefix": model.pool_include_prefix,
        "norm_eps": float(norm.eps),
        "act": ACTIVATIONS[type(first.mlp.act).__name__],
    }
    if scale is not None:
        options["init_values"] = 1.0
    with torch.device("meta"):
        again = {k: v.shape for k, v in ReparameterizedViT(**options, weight_init="skip").state_dict().items()}  # type: ignore[arg-type]
    own = {k: v.shape for k, v in model.state_dict().items()}
    if other := sorted({k for k, v in own.items() if again.get(k) != v} | (again.keys() - own.keys())):
        raise InputError(f"this VisionTransformer has parts that conversion cannot build again: {', '.join(other[:3])}")
    return options


def chosen(blocks: str, depth: int) -> list[int]:
    """
    Raises:
        InputError: not of that form, or past the last block.

    >>> chosen("0-2,5", 12)
    [0, 1, 2, 5]
    """
    if blocks == ALL:
        return list(range(depth))
    found = set[int]()
    for part in str(blocks).split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise InputError(f"blocks {blocks!r}; allowed: all, or numbers and ranges such as 0-5,8")
        found |= set(range(int(first), int(last or first) + 1))
    if not found or max(found) >= depth:
        raise InputError(f"blocks {blocks!r}; allowed: 0 to {depth - 1}")
    return sorted(found)


def _attention(attn: Any, variant: Spelled, tokens: int) -> CoreAttention:
    if isinstance(attn, CoreAttention):
        raise InputError("this attention is converted already; convert the model that it came from")
    if attn.attn_drop.p > 0:
        raise InputError(f"attn_drop_rate is {attn.attn_drop.p:g}; allowed: 0 where attention is converted")
    name, options = variant
    cls = CORES[name]
    core = taken(cls, lambda: cls.of(attn.num_heads, attn.head_dim, tokens, **options), options, f"attention {name}")
    return CoreAttention(attn, core)


def _layer(layer: Any, variant: Spelled) -> nn.Module:
    _unconverted(layer, nn.Linear)
    name, options = variant
    return taken(LINEARS[name], lambda: LINEARS[name].of(layer, **options), options, f"linear variant {name}")  # type: ignore[no-any-return]


def _mlp(mlp: Any, variant: Spelled, width: int) -> nn.Module:
    _unconverted(mlp, Mlp)
    name, options = variant
    cls = LINEARS[name]
    return taken(cls, lambda: cls.around(mlp, width, **options), options, f"linear variant {name}")  # type: ignore[no-any-return]


def _unconverted(part: nn.Module, kind: type[nn.Module]) -> None:
    if type(part) is not kind or (kind is Mlp and type(part.fc1) is not nn.Linear):
        raise InputError(f"a {type(part).__name__} is converted already; convert the model that it came from")


def _plain(model: Any) -> None:
    """Raise InputError, naming the part, where a block has no word here."""
    if type(model.patch_embed) is not PatchEmbed or not isinstance(model.patch_embed.norm, nn.Identity):
        raise InputError("the patch embedding is not timm's plain one; conversion cannot build it again")
    if not isinstance(model.head, nn.Linear | nn.Identity):
        raise InputError(f"the head is a {type(model.head).__name__}; allowed: one linear layer, or none")
    for i, block in enumerate(model.blocks):
        for part, kind in ((block, Block), (block.attn, Attention), (block.mlp, Mlp)):
            if type(part) is not kind:
                raise InputError(f"block {i} has a {type(part).__name__}; conversion knows {kind.__name__}")
        if type(block.mlp.act).__name__ not in ACTIVATIONS:
            raise InputError(
                f"the activation of block {i} is {type(block.mlp.act).__name__}; known: {', '.join(ACTIVATIONS)}"
            )


def _side(size: tuple[int, int]) -> Kwarg:
    return size[0] if size[0] == size[1] else tuple(size)

"""An IRET-style model out of one trained ViT, or of a narrow and a wide one."""

from typing import Any

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from foveate.errors import InputError
from foveate.models.iret.model import IRET


def from_vit(vit: nn.Module, **options: Any) -> IRET:
    """The ViT's own weights, its patch embedding split over the bands: with all detail before block 0 the same model.

    Every exit starts with the ViT's norm and classifier.

    Args:
        vit: timm's VisionTransformer with a class token or mean pooling, absolute positions and ordinary blocks.
        options: further arguments of `IRET` but `widening`, for instance `transitions=(2, 5, 8)`.

    Raises:
        InputError: for another class, or a part that IRET has not.
    """
    host = checked(vit, "from_vit")
    sizes = {"embed_dim": host.embed_dim, "num_heads": host.blocks[0].attn.num_heads}
    made = IRET(widening="residual", **arguments(host) | sizes | options)
    take_over(made, host, None, len(host.blocks), "from_vit")
    return made


def stitch(narrow: nn.Module, wide: nn.Module, *, first: int = 4, images: Tensor | None = None, **options: Any) -> IRET:
    """The first blocks of a narrow ViT and the last of a wide one, with a linear map of the tokens in between.

    Tokens start as the narrow ViT's embedding of the coarse band; at the transition the wide one's embedding of the
    other bands is added to the focused. The exit behind the narrow blocks starts with the narrow ViT's norm and
    classifier. The map starts as what takes, by least squares, the narrow ViT's tokens to what the wide one's block
    would have got, less the detail: from `images` as they are there (as in arXiv:2302.06586), without any as if no
    block had run, of positions and of every coefficient of the coarse band alone. Neither makes training needless.

    Args:
        narrow, wide: as for `from_vit`, and alike in all but width and heads.
        first: how many blocks are the narrow ViT's.
        images: [B 3 h w], preprocessed; as many that B x patches is several times the narrow width.
        options: further arguments of `IRET`, such as `sampling`; widths and transitions are given.

    Raises:
        InputError: for ViTs that do not fit together, or a part that IRET has not.
    """
    a, b = checked(narrow, "stitch"), checked(wide, "stitch")
    ours, theirs = arguments(a), arguments(b)
    for name, value in ours.items():
        if value != theirs[name]:
            raise InputError(f"stitch: {name} of the two ViTs is {value} and {theirs[name]}; allowed: the same")
    if not 0 < first < len(a.blocks):
        raise InputError(f"first is {first}; allowed: 1 to {len(a.blocks) - 1} blocks of the narrow ViT")
    made = IRET(
        widening="stitched",
        embed_dim=(a.embed_dim, b.embed_dim),
        num_heads=(a.blocks[0].attn.num_heads, b.blocks[0].attn.num_heads),
        transitions=(first - 1,),
        **ours | options,
    )
    take_over(made, a, b, first, "stitch")
    between: Any = made.widenings[0]
    with torch.no_grad():
        x, y = (_embedded(made, a), _embedded(made, b)) if images is None else _met(made, b, first, images)
        between.map.weight.copy_(torch.linalg.lstsq(x.double(), y.double()).solution.T)
        between.map.bias.zero_()
    return made


def checked(vit: nn.Module, who: str) -> Any:
    """The ViT itself, if IRET has all its parts."""
    if type(vit) is not VisionTransformer:
        raise InputError(f"{who} takes timm's VisionTransformer; got a {type(vit).__name__}")
    wrong = {
        "a patch embedding that is no PatchEmbed": type(vit.patch_embed) is not PatchEmbed,
        "no absolute positions": vit.pos_embed is None,
        "registers": vit.num_prefix_tokens > 1,
        "a position for patches alone": vit.no_embed_class and vit.num_prefix_tokens > 0,
        "a norm before the blocks": not isinstance(vit.norm_pre, nn.Identity),
        f"blocks of class {type(vit.blocks[0]).__name__}": any(type(b) is not Block for b in vit.blocks),
        f"pooling {vit.global_pool!r}": vit.global_pool != ("token" if vit.num_prefix_tokens else "avg"),
    }
    if found := [what for what, is_so in wrong.items() if is_so]:
        raise InputError(f"{who}: this VisionTransformer has {found[0]}")
    high, wide = vit.patch_embed.img_size
    if high != wide:
        raise InputError(f"{who}: images of {high} x {wide}; allowed: square ones")
    return vit


def arguments(vit: Any) -> dict[str, Any]:
    """Of `IRET`, but for widths and heads."""
    first = vit.blocks[0]
    return {
        "img_size": vit.patch_embed.img_size[0], "patch_size": vit.patch_embed.patch_size[0],
        "num_classes": vit.num_classes, "in_chans": vit.patch_embed.proj.in_channels, "depth": len(vit.blocks),
        "mlp_ratio": first.mlp.fc1.out_features / vit.embed_dim,
        "init_values": None if isinstance(first.ls1, nn.Identity) else 1.0,
        "class_token": vit.num_prefix_tokens > 0,
    }  # fmt: skip


@torch.no_grad()
def take_over(made: IRET, vit: Any, wide: Any, first: int, who: str) -> None:
    """Embeddings, positions and the first blocks are `vit`'s; details, the other blocks and the end are `wide`'s."""
    wide = vit if wide is None else wide
    try:
        made.blocks[:first].load_state_dict(vit.blocks[:first].state_dict())
        for i in range(first, made.depth):
            made.blocks[i].load_state_dict(wide.blocks[i].state_dict())
    except RuntimeError as e:
        raise InputError(f"{who}: the blocks do not fit: {str(e).splitlines()[1].strip()}") from None
    proj = vit.patch_embed.proj
    bias = torch.zeros(vit.embed_dim) if proj.bias is None else proj.bias
    made.embed_by(proj.weight, bias, wide.patch_embed.proj.weight)
    made.pos_embed.copy_(vit.pos_embed)
    if made.cls_token is not None:
        made.cls_token.copy_(vit.cls_token)
    ends = [(made.norm, made.head, wide)]
    ends += [(n, h, vit) for n, h in zip(made.exit_norms, made.exit_heads, strict=True)]
    for norm, head, source in ends:
        norm.load_state_dict((source.fc_norm if isinstance(source.fc_norm, nn.LayerNorm) else source.norm).state_dict())
        if isinstance(source.head, nn.Linear):
            head.load_state_dict(source.head.state_dict())


def _embedded(made: IRET, vit: Any) -> Tensor:
    """What a ViT makes of every coefficient of the coarse band by itself, and of an empty image: [rows C]."""
    proj = vit.patch_embed.proj
    empty = vit.pos_embed[0].clone()
    if proj.bias is not None:
        empty[vit.num_prefix_tokens :] += proj.bias
    if vit.num_prefix_tokens:
        empty[:1] += vit.cls_token[0]
    return torch.cat((made.lifting.split(proj.weight).ll.flatten(1).T, empty))


def _met(made: IRET, wide: Any, first: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of images where the ViTs meet: the narrow one's, and the wide one's less their detail; [rows C] each."""
    mode, whole = made.training, from_vit(wide, transitions=(-1,)).eval()
    state, target = made.eval().begin(images), whole.begin(images)
    nothing = state._replace(x=torch.zeros_like(target.x))
    detail = made.sharpen(nothing, made.num_patches, None, 0).x
    for i in range(first):
        state, target = made.block(i, state), whole.block(i, target)
    made.train(mode)
    return state.x.flatten(0, 1), (target.x - detail).flatten(0, 1)

"""Hugging Face's vision encoders as timm's, tensor by tensor; who asks checks that both answer alike.

ViT, DeiT, DINOv2 (with registers or without), CLIP, SigLIP and SigLIP 2 become timm's VisionTransformer, DINOv3 its
Eva. Names of tensors differ between versions of transformers; the rules know those of 5.23 and later.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import InputError
from foveate.loading.convert import renamed
from foveate.loading.weights import filled

ACTIVATIONS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}
RULES = (
    (r"^(vit|deit|dinov2|vision_model)\.", ""),
    (r"^(encoder|model)\.layers?\.", "layers."),
    (r"^layers\.", "blocks."),
    (r"\.attention\.attention\.", ".attention."),
    (r"\.(attention|self_attn)\.", ".attn."),
    (r"\.attn\.(query|key|value)\.", lambda found: f".attn.{found[1][0]}_proj."),
    (r"\.attn\.(o_proj|out_proj|output\.dense)\.", ".attn.proj."),
    (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^(layernorm|post_layernorm)\.", "norm."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^embeddings\.(patch_embeddings\.projection|patch_embeddings?)\.", "patch_embed.proj."),
    (r"^embeddings\.(cls_token|class_embedding)$", "cls_token"),
    (r"^embeddings\.(position_embeddings|position_embedding\.weight)$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^(classifier|cls_classifier|visual_projection)\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
)
DROPPED = ("embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")


def answer_of(model: Any, out: Any) -> Any:
    """What a model of Hugging Face's answers with: logits, an image's projected or pooled embedding.

    A `ViTModel`'s pooler is a further layer that most checkpoints never trained; its class token is what is compared.
    """
    if type(model).__name__ == "ViTModel":
        return out.last_hidden_state[:, 0]
    for name in ("logits", "image_embeds", "pooler_output"):
        if isinstance(found := getattr(out, name, None), Tensor):
            return found
    return out


def outputs_of(model: Any) -> str | None:
    """ "embedding" of a model with a projection, which has the shape of a classifier."""
    return "embedding" if hasattr(model, "visual_projection") else None


def base(model: Any, **more: Any) -> dict[str, Any]:
    """Arguments of timm's that all of them share."""
    config = getattr(model.config, "vision_config", model.config)
    act = getattr(config, "hidden_act", "gelu")
    if act not in ACTIVATIONS:
        raise InputError(f"activation {act!r}; known here: {', '.join(ACTIVATIONS)}")
    size = getattr(model, "foveate_image_size", None) or config.image_size
    return {
        "img_size": tuple(size) if isinstance(size, list | tuple) else size,
        "patch_size": config.patch_size,
        "in_chans": getattr(config, "num_channels", 3),
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "norm_layer": partial(nn.LayerNorm, eps=config.layer_norm_eps),
        "act_layer": ACTIVATIONS[act],
        **more,
    }


def state_of(model: Any) -> dict[str, Tensor]:
    """Its tensors under timm's names, queries, keys and values in one."""
    state = renamed(model.state_dict(), RULES)
    state = {k: v for k, v in state.items() if k not in DROPPED}
    for key in [k for k in state if k.endswith(".attn.q_proj.weight")]:
        stem = key.removesuffix("q_proj.weight")
        for kind in ("weight", "bias"):
            parts = [state.pop(f"{stem}{name}_proj.{kind}", None) for name in "qkv"]
            if all(part is None for part in parts):
                continue
            like = next(part for part in parts if part is not None)
            parts = [torch.zeros_like(like) if part is None else part for part in parts]
            state[f"{stem}qkv.{kind}"] = torch.cat(parts)
    for name, rank in (("cls_token", 3), ("pos_embed", 3)):
        if name in state:
            state[name] = state[name].reshape((1,) * (rank - state[name].ndim) + state[name].shape)
    return state


def made(kind: type[nn.Module], state: Mapping[str, Tensor], model: Any, **arguments: Any) -> nn.Module:
    """timm's model, filled."""
    blocks = [k for k in state if k.startswith("blocks.0.mlp.fc1.weight")]
    if blocks:
        arguments["mlp_ratio"] = state[blocks[0]].shape[0] / state[blocks[0]].shape[1]
    head = state.get("head.weight")
    count = 0 if head is None else head.shape[0]
    return filled(kind(num_classes=count, **arguments), state, f"the weights of a {type(model).__name__}")


def from_vit(model: Any) -> nn.Module:
    """`ViTForImageClassification`; of a `ViTModel` the class token behind the last norm is the embedding."""
    from timm.models.vision_transformer import VisionTransformer

    return made(VisionTransformer, state_of(model), model, **base(model, qkv_bias=model.config.qkv_bias))


def from_deit(model: Any) -> nn.Module:
    """`DeiTForImageClassification` asks the class token alone, `...WithTeacher` both tokens."""
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    state, options = state_of(model), base(model, qkv_bias=model.config.qkv_bias)
    if "head_dist.weight" in state:
        return made(VisionTransformerDistilled, state, model, **options)
    state["reg_token"] = state.pop("dist_token")
    return made(VisionTransformer, state, model, **options, reg_tokens=1)


def from_dinov2(model: Any) -> nn.Module:
    """`Dinov2Model` and `Dinov2WithRegistersModel`: the class token behind the norm. Positions are made for the size
    that the weights' photographs have, by the model's own resampling."""
    from timm.layers.mlp import SwiGLU
    from timm.models.vision_transformer import VisionTransformer

    state, options = state_of(model), base(model, qkv_bias=model.config.qkv_bias, init_values=1.0)
    side = options["img_size"] if isinstance(options["img_size"], int) else options["img_size"][0]
    grid = side // options["patch_size"]
    tokens = torch.zeros(1, 1 + grid * grid, options["embed_dim"])
    positions = model.embeddings.interpolate_pos_encoding(tokens, side, side).detach()
    if "reg_token" in state:  # which stand behind the class token, without a position
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        state["pos_embed"] = positions[:, 1:]
        options |= {"reg_tokens": state["reg_token"].shape[1], "no_embed_class": True}
    else:
        state["pos_embed"] = positions
    gates = {"gate_proj": "fc1_g", "up_proj": "fc1_x", "down_proj": "fc2"}
    if any(".mlp.gate_proj." in k for k in state):
        state = renamed(state, tuple((rf"\.mlp\.{a}\.", f".mlp.{b}.") for a, b in gates.items()))
        ratio = state["blocks.0.mlp.fc1_g.weight"].shape[0] / options["embed_dim"]
        options |= {"mlp_layer": SwiGLU, "mlp_ratio": ratio, "act_layer": "silu"}
    return made(VisionTransformer, state, model, **options)


def from_clip(model: Any) -> nn.Module:
    """`CLIPVisionModel` and `CLIPVisionModelWithProjection`: the class token behind the norm, projected or not."""
    from timm.models.vision_transformer import VisionTransformer

    state = state_of(model)
    vit = made(VisionTransformer, state | _no_bias(state), model, **base(model, pre_norm=True))
    if "head.weight" in state:
        head = nn.Linear(vit.head.in_features, vit.head.out_features, bias=False)  # type: ignore[union-attr,arg-type]
        head.load_state_dict({"weight": state["head.weight"]})
        vit.head = head
    return vit


def _no_bias(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A projection has none; timm's head is built with one."""
    return {"head.bias": torch.zeros(state["head.weight"].shape[0])} if "head.weight" in state else {}


def from_siglip(model: Any) -> nn.Module:
    """`SiglipVisionModel`, whose head attends to tokens, and `SiglipForImageClassification`, which averages them."""
    from timm.models.vision_transformer import VisionTransformer

    state, classes = state_of(model), hasattr(model, "classifier")
    pools = not classes and any(k.startswith("head.") for k in state)  # a tower in LLaVA-OneVision has no head
    options = base(model, class_token=False, global_pool="map" if pools else "avg", fc_norm=False)
    rules = (
        (r"^head\.probe$", "attn_pool.latent"),
        (r"^head\.attn\.out_proj\.", "attn_pool.proj."),
        (r"^head\.attn\.proj\.", "attn_pool.proj."),
        (r"^head\.layernorm\.", "attn_pool.norm."),
        (r"^head\.mlp\.", "attn_pool.mlp."),
    )
    if pools:
        for kind in ("weight", "bias"):
            packed = state.pop(next(k for k in state if k.endswith(f"in_proj_{kind}")))
            q, kv = packed[: len(packed) // 3], packed[len(packed) // 3 :]
            state |= {f"attn_pool.q.{kind}": q, f"attn_pool.kv.{kind}": kv}
        state = renamed(state, rules)
    else:
        own = ("head.weight", "head.bias")
        state = {k: v for k, v in state.items() if not k.startswith("head.") or k in own}
    return made(VisionTransformer, state, model, **options)


def from_dinov3(model: Any) -> nn.Module:
    """`DINOv3ViTModel`: rotary positions, registers, keys without a bias."""
    from timm.models.eva import Eva

    config, state = model.config, state_of(model)
    options = base(
        model,
        qkv_bias=any(k.endswith("qkv.bias") for k in state),
        init_values=1.0,
        rope_type="dinov3",
        rope_temperature=config.rope_theta,
        rope_rotate_half=True,
        use_rot_pos_emb=True,
        use_abs_pos_emb=False,
        num_reg_tokens=config.num_register_tokens,
        use_fc_norm=False,
        global_pool="token",
        dynamic_img_size=False,
    )
    wanted = "silu" if config.use_gated_mlp else "gelu"
    if options.pop("act_layer") != wanted:
        raise InputError(f"activation {config.hidden_act!r} in this DINOv3; known here: {wanted}")
    rules = [(r"\.ls([12])\.gamma$", r".gamma_\1"), (r"\.attn\.qkv\.bias$", ".attn.qkv_bias")]
    if config.use_gated_mlp:
        options |= {
            "swiglu_mlp": True,
            "swiglu_align_to": 1,
            "mlp_ratio": config.intermediate_size / config.hidden_size,
        }
        rules += [(r"\.mlp\.gate_proj\.", ".mlp.fc1_g."), (r"\.mlp\.up_proj\.", ".mlp.fc1_x.")]
    else:
        rules += [(r"\.mlp\.up_proj\.", ".mlp.fc1.")]
    state = renamed(state, (*rules, (r"\.mlp\.down_proj\.", ".mlp.fc2.")))
    for key in [k for k in state if k.endswith(".attn.qkv_bias")]:
        q, _, v = state.pop(key).chunk(3)
        state |= {key.replace("qkv_bias", "q_bias"): q, key.replace("qkv_bias", "v_bias"): v}
    if not config.num_register_tokens:
        state.pop("reg_token", None)
    return made(Eva, state, model, **options)


def to_vit(model: Any) -> Any:
    """timm's plain ViT as transformers' `ViTModel` without a pooler: the way back, for a tower of a model that sees.

    Raises:
        InputError: a model that has parts which a `ViTModel` has not.
    """
    import transformers as hf

    block = model.blocks[0]
    config = hf.ViTConfig(
        hidden_size=model.embed_dim, intermediate_size=block.mlp.fc1.out_features,
        num_hidden_layers=len(model.blocks), num_attention_heads=block.attn.num_heads,
        image_size=model.patch_embed.img_size[0], patch_size=model.patch_embed.patch_size[0],
        layer_norm_eps=block.norm1.eps, qkv_bias=block.attn.qkv.bias is not None,
    )  # fmt: skip
    made = hf.ViTModel(config, add_pooling_layer=False)
    wanted, state = made.state_dict(), model.state_dict()
    names = {key: next(iter(renamed({key: wanted[key]}, RULES))) for key in wanted}
    found = {}
    for key, name in names.items():
        for n, part in enumerate("qkv"):
            if f".attn.{part}_proj." in name:
                packed = state[name.replace(f"{part}_proj", "qkv")]
                found[key] = packed.chunk(3)[n]
        if key not in found:
            found[key] = state.get(name)
    missing = [name for key, name in names.items() if found[key] is None]
    left = {k for k in state if not k.startswith(("head.", "fc_norm."))} - {
        name.replace("q_proj", "qkv").replace("k_proj", "qkv").replace("v_proj", "qkv") for name in names.values()
    }
    if missing or left:
        raise InputError(f"a {type(model).__name__} with {', '.join(sorted([*missing, *left])[:3])} is no ViTModel")
    made.load_state_dict(found)
    return made.eval()


HERE = "transformers.models."
CONVERTERS: dict[str, Callable[[Any], nn.Module]] = {
    f"{HERE}vit.modeling_vit.ViTForImageClassification": from_vit,
    f"{HERE}vit.modeling_vit.ViTModel": from_vit,
    f"{HERE}deit.modeling_deit.DeiTForImageClassification": from_deit,
    f"{HERE}deit.modeling_deit.DeiTForImageClassificationWithTeacher": from_deit,
    f"{HERE}dinov2.modeling_dinov2.Dinov2Model": from_dinov2,
    f"{HERE}dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersModel": from_dinov2,
    f"{HERE}dinov3_vit.modeling_dinov3_vit.DINOv3ViTModel": from_dinov3,
    f"{HERE}clip.modeling_clip.CLIPVisionModel": from_clip,
    f"{HERE}clip.modeling_clip.CLIPVisionModelWithProjection": from_clip,
    f"{HERE}siglip.modeling_siglip.SiglipVisionModel": from_siglip,
    f"{HERE}siglip.modeling_siglip.SiglipForImageClassification": from_siglip,
}

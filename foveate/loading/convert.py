"""Vision transformers of other libraries as timm's, tensor by tensor; who asks checks that both answer alike."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from foveate.loading.weights import filled

TORCHVISION = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.(?:head\.)?(weight|bias)$", r"head.\1"),
)


def from_torchvision(model: Any) -> nn.Module:
    """torchvision's `VisionTransformer`.

    Raises:
        InputError: one with a convolutional stem or a representation layer, which timm's has not.
    """
    from timm.models.vision_transformer import VisionTransformer

    layers, state = model.encoder.layers, renamed(model.state_dict(), TORCHVISION)
    made = VisionTransformer(
        img_size=model.image_size, patch_size=model.patch_size, embed_dim=model.hidden_dim, depth=len(layers),
        num_heads=layers[0].num_heads, mlp_ratio=model.mlp_dim / model.hidden_dim,
        num_classes=state["head.weight"].shape[0] if "head.weight" in state else 0,
    )  # fmt: skip
    config: Any = {  # of all its published weights
        "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "crop_pct": 0.875, "interpolation": "bilinear",
    }  # fmt: skip
    made.pretrained_cfg = config
    return filled(made, state, "torchvision's weights")


Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def renamed(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """`state` with every rule (a regular expression, what stands there then) applied to every name."""
    found = {}
    for key, tensor in state.items():
        for pattern, to in rules:
            key = re.sub(pattern, to, key)
        found[key] = tensor
    return found


CONVERTERS: dict[str, Callable[[Any], nn.Module]] = {
    "torchvision.models.vision_transformer.VisionTransformer": from_torchvision,
}

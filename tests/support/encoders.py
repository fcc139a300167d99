"""Small random vision encoders of transformers', one of every kind that foveate takes."""

from collections.abc import Callable
from typing import Any

import torch

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
}
PLAIN = {key: value for key, value in SHAPE.items() if key != "intermediate_size"}
LABELS = {"id2label": {0: "cat", 1: "dog", 2: "cow"}, "label2id": {"cat": 0, "dog": 1, "cow": 2}}


def _of(cls: str, config: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import transformers as hf

        torch.manual_seed(0)
        model = getattr(hf, cls)(getattr(hf, config)(**options))
        with torch.no_grad():  # so that no norm, scale or bias is a no-op
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model.eval()

    return make


ENCODERS: dict[str, Callable[[], Any]] = {
    "vit": _of("ViTForImageClassification", "ViTConfig", **SHAPE, **LABELS),
    "vit_backbone": _of("ViTModel", "ViTConfig", **SHAPE),
    "vit_no_bias": _of(
        "ViTForImageClassification", "ViTConfig", **SHAPE, **LABELS, qkv_bias=False, hidden_act="gelu_new"
    ),
    "deit": _of("DeiTForImageClassification", "DeiTConfig", **SHAPE, **LABELS),
    "deit_teacher": _of("DeiTForImageClassificationWithTeacher", "DeiTConfig", **SHAPE, **LABELS),
    "dinov2": _of("Dinov2Model", "Dinov2Config", **PLAIN),
    "dinov2_swiglu": _of("Dinov2Model", "Dinov2Config", **PLAIN, use_swiglu_ffn=True),
    "dinov2_registers": _of("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **PLAIN),
    "dinov3": _of("DINOv3ViTModel", "DINOv3ViTConfig", **SHAPE, num_register_tokens=4),
    "dinov3_gated": _of("DINOv3ViTModel", "DINOv3ViTConfig", **SHAPE, use_gated_mlp=True, hidden_act="silu"),
    "clip": _of("CLIPVisionModelWithProjection", "CLIPVisionConfig", **SHAPE, projection_dim=24),
    "clip_unprojected": _of("CLIPVisionModel", "CLIPVisionConfig", **SHAPE),
    "siglip": _of("SiglipVisionModel", "SiglipVisionConfig", **SHAPE),
    "siglip_classes": _of("SiglipForImageClassification", "SiglipConfig", vision_config=SHAPE, **LABELS),
}
PROCESSOR = {
    "do_resize": True,
    "size": {"height": 64, "width": 64},
    "resample": 3,
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}

"""The model families, small and with weights far from their start, and the laws of a token's size."""

from typing import Any, TypeVar

import timm
import torch
from torch import nn

import foveate.models  # noqa: F401  puts ours into timm's registry
from foveate.adapters import adapt, describe
from foveate.methods._base import select
from foveate.plans import Step
from foveate.tokens import Tokens

M = TypeVar("M", bound=nn.Module)

SMALL = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 7}
WIDER: dict[str, object] = {"embed_dim": (16, 32), "num_heads": 2}
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    # timm's VisionTransformer
    "vit": ("vit_tiny_patch16_224", {}),
    "augreg": ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", {}),
    "vit_avg": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "vit_avg_no_class": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False}),
    "qk_norm": ("vit_tiny_patch16_224", {"qk_norm": True, "init_values": 0.1}),
    "scale_norm": ("vit_tiny_patch16_224", {"scale_attn_norm": True, "scale_mlp_norm": True}),
    "deit": ("deit_tiny_patch16_224", {}),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", {}),
    "deit3": ("deit3_small_patch16_224", {}),
    "clip": ("vit_base_patch32_clip_quickgelu_224", {}),
    "siglip": ("vit_base_patch16_siglip_224", {}),
    "siglip_gap": ("vit_base_patch16_siglip_gap_224", {}),
    "dinov2": ("vit_small_patch14_dinov2", {}),
    "dinov2_swiglu": ("vit_giant_patch14_dinov2", {}),
    "dinov2_reg4": ("vit_small_patch14_reg4_dinov2", {}),
    "reg4_gap": ("vit_base_patch16_reg4_gap_256", {}),
    "features": ("vit_tiny_patch16_224", {"num_classes": 0}),
    "siglip_features": ("vit_base_patch16_siglip_224", {"num_classes": 0}),
    # timm's Eva
    "eva": ("eva_giant_patch14_224", {"mlp_ratio": 2}),
    "eva02": ("eva02_tiny_patch14_224", {}),
    "eva02_split_qkv": ("eva02_base_patch14_224", {}),
    "eva02_clip": ("eva02_base_patch16_clip_224", {}),
    "dinov3": ("vit_small_patch16_dinov3", {"dynamic_img_size": False}),
    "dinov3_features": ("vit_small_patch16_dinov3", {"dynamic_img_size": False, "num_classes": 0}),
    "dinov3_swiglu": ("vit_small_plus_patch16_dinov3_qkvb", {"dynamic_img_size": False}),
    "rope": ("vit_small_patch16_rope_224", {}),
    "rope_mixed": ("vit_small_patch16_rope_mixed_224", {}),
    "rope_reg4_gap": ("vit_betwixt_patch16_rope_reg4_gap_256", {}),
    "pe_core": ("vit_pe_core_tiny_patch16_384", {}),
    # ours
    "vittm": ("vittm_tiny_patch32_mem16_224", {"memory_patch_size": 8}),
    "segmenter": ("segmenter_vit_tiny_patch16_512", {}),
    "segmenter_vittm": ("segmenter_vittm_tiny_patch28_504", {}),
    "segmenter_dinov3": (
        "segmenter_vit_tiny_patch16_512", {"backbone": "vit_small_patch16_dinov3", "dynamic_img_size": False},
    ),
    "dense": ("dense_vit_tiny_patch16_224", {"channels": (16, 8)}),
    "dense_dinov2": ("dense_vit_small_patch14_dinov2", {"channels": (64, 32), "num_classes": 1}),
    "dense_vittm": ("dense_vit_tiny_patch16_224", {"backbone": "vittm_tiny_patch28_224", "channels": (8,)}),
    "iret": ("iret_residual_tiny_patch16_224", {"transitions": (-1,)}),  # with decisions of its own: test_iret
    "iret_mean": ("iret_residual_tiny_patch16_224", {"transitions": (-1,), "class_token": False}),
    "vittm_process": ("vittm_tiny_patch28_224", {"output": "process", "norm": "pre"}),
    "iret_concat": ("iret_concat_small3_patch16_224", {**WIDER, "transitions": (-1,)}),
    "iret_stitched": ("iret_stitched_small2_patch16_224", {**WIDER, "transitions": (-1,)}),
}  # fmt: skip
IMAGE = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def randomised(model: nn.Module) -> nn.Module:
    """Every parameter of note: norms, LayerScale, positions and biases too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


def shaken(model: M) -> M:
    """Every parameter moved off its start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    return model


def make(variant: str) -> nn.Module:
    name, options = VARIANTS[variant]
    return randomised(timm.create_model(name, **{**SMALL, **options})).eval()


def trunk(model: nn.Module) -> Any:
    """The part that holds the blocks."""
    return getattr(model, "backbone", model)


def plan(model: nn.Module, method: str, *kept: int) -> list[Step]:
    """`kept` patches after blocks 0, 1, ..."""
    prefix = describe(model).prefix
    return [Step(block=b, method=method, tokens=prefix + k) for b, k in enumerate(kept or (11, 6))]


def sized(reduced, batch: int = 2) -> Tokens:
    """Tokens of block 1 after a reduction: uneven sizes, positions of their own for every image."""
    generator, p = torch.Generator().manual_seed(3), reduced.facts.prefix
    tokens = reduced.embed(torch.randn(batch, 3, 64, 64, generator=generator))
    order = torch.rand(batch, 16, generator=generator).argsort(1)[:, :9]
    size = torch.cat([torch.ones(batch, p), torch.randint(1, 5, (batch, 9), generator=generator).float()], dim=1)
    return select(tokens, order)._replace(size=size, memory=tokens.memory)


def doubled(tokens: Tokens) -> Tokens:
    """The last token twice, and all sizes one."""
    rope = None if tokens.rope is None else torch.cat([tokens.rope, tokens.rope[:, -1:]], dim=1)
    x = torch.cat([tokens.x, tokens.x[:, -1:]], dim=1)
    return tokens._replace(x=x, size=torch.ones(x.shape[:2]), rope=rope)


def one_of_size_two(tokens: Tokens) -> Tokens:
    size = torch.ones_like(tokens.size)
    size[:, -1] = 2
    return tokens._replace(size=size)


def block_law(model: nn.Module) -> None:
    reduced = adapt(model, plan(model, "tome", 12))
    tokens = sized(reduced)
    merged = reduced.block(1, one_of_size_two(tokens))
    twice = reduced.block(1, doubled(tokens))
    torch.testing.assert_close(merged.x, twice.x[:, :-1], **CLOSE)
    if merged.memory is not None:
        torch.testing.assert_close(merged.memory, twice.memory, **CLOSE)


def pooling_law(model: nn.Module) -> None:
    reduced = adapt(model, plan(model, "tome", 12))
    tokens = sized(reduced)
    dense = adapt(model)
    torch.testing.assert_close(reduced.finish(one_of_size_two(tokens)), dense.finish(doubled(tokens)), **CLOSE)

"""Unknown models are refused by name, not guessed, and so are steps that a model cannot take."""

import pytest
import timm
from timm.models.eva import Eva
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import nn

from foveate.adapters import adapt
from foveate.errors import InputError
from foveate.plans import Step

SMALL = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 7}


class Subclass(VisionTransformer):
    """Overrides what an adapter runs piece by piece."""

    def forward_features(self, x, attn_mask=None, is_causal=False):
        return super().forward_features(x, attn_mask, is_causal)


class SubEva(Eva):
    """Overrides what an adapter runs piece by piece."""

    def forward_head(self, x, pre_logits=False):
        return super().forward_head(x, pre_logits)


def timm_small(name: str, **options: object) -> nn.Module:
    return timm.create_model(name, **{**SMALL, **options})


REFUSED = {
    "subclass": (lambda: Subclass(**SMALL), r"Subclass overrides forward_features of timm\.models\.vision_transformer"),
    "eva subclass": (lambda: SubEva(**SMALL), r"SubEva overrides forward_head of timm\.models\.eva"),
    "linear": (lambda: nn.Linear(1, 1), r"no adapter for torch\.nn\.modules\.linear\.Linear"),
    "swin": (lambda: timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1)), r"SwinTransformer; known"),
    "parallel blocks": (
        lambda: VisionTransformer(**SMALL, block_fn=ParallelScalingBlock),
        "block 0 is a ParallelScalingBlock; known here: Block",
    ),
    "diff attention": (lambda: VisionTransformer(**SMALL, attn_layer="diff"), "block 0 is a DiffAttention"),
    "dynamic size": (lambda: VisionTransformer(**SMALL, dynamic_img_size=True), "dynamic_img_size=True"),
    "dynamic dinov3": (lambda: timm_small("vit_small_patch16_dinov3"), "dynamic_img_size=True"),
    "pooling": (lambda: VisionTransformer(**SMALL, global_pool="avgmax"), "pooling 'avgmax' is not supported"),
    "prr pooling": (lambda: VisionTransformer(**SMALL, global_pool="prr"), "pooling 'prr' is not supported"),
    "tokens": (lambda: VisionTransformer(**{**SMALL, "num_classes": 0}, global_pool=""), "gives tokens and no answer"),
    "eva tokens": (lambda: Eva(**SMALL, global_pool=""), "global_pool is '', which gives tokens and no answer"),
    "no blocks": (lambda: VisionTransformer(**{**SMALL, "depth": 0}), "the model has no blocks"),
    "patch dropout": (lambda: VisionTransformer(**SMALL, patch_drop_rate=0.5), "patch_drop_rate"),
    "hybrid": (
        lambda: timm.create_model("vit_tiny_r_s16_p8_224", depth=1),
        "the patch embedding is a HybridEmbed; known here: PatchEmbed",
    ),
    "post-norm": (lambda: Eva(**SMALL, use_post_norm=True), "block 0 is a EvaBlockPostNorm"),
    "grouped queries": (
        lambda: Eva(**SMALL, attn_type="rope", num_kv_heads=1, qkv_fused=False),
        r"grouped \(2 query heads on 1 key heads\)",
    ),
    "mrope": (
        lambda: Eva(**{**SMALL, "embed_dim": 128}, use_rot_pos_emb=True, rope_type="mrope"),
        "the rotary embedding is a RotaryEmbeddingMRope",
    ),
    "eva patch dropout": (lambda: Eva(**SMALL, patch_drop_rate=0.5), "patch_drop_rate"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_unknown_models_are_refused_by_name(what):
    build, message = REFUSED[what]
    with pytest.raises(InputError, match=message):
        adapt(build())


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Step(block=0, method="tomee", tokens=12)], r"unknown method 'tomee'; known: .*tome"),
        ([Step(block=3, method="tome", tokens=12)], "block 3 does not exist: the model has blocks 0 to 2"),
        (
            [Step(block=0, method="tome", tokens=8)],
            r"'tome' removes at most 8 of 16 patches in one block; block 0 .* 9",
        ),
        ([Step(block=0, method="uniform", tokens=2)], "at least 2 patches"),
        ([Step(block=0, method="uniform", tokens=12), Step(block=1, method="uniform", tokens=13)], "cannot grow"),
        ([Step(block=0, method="tome", tokens=12, options={"speed": 1})], "'tome' does not take these options"),
    ],
)
def test_wrong_steps_are_refused(steps, message):
    with pytest.raises(InputError, match=message):
        adapt(timm_small("vit_tiny_patch16_224"), steps)


def test_a_method_that_needs_a_class_token_is_refused_without_one():
    with pytest.raises(InputError, match=r"'topk' scores by the class token.*need none: .*tome"):
        adapt(timm_small("vit_base_patch16_siglip_224"), [Step(block=0, method="topk", tokens=12)])

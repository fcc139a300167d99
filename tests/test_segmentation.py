"""Models that draw masks: Segmenter, dense heads, their costs, adapted and reduced."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from support.families import randomised
from torch import nn
from torch.nn import functional as F

import foveate.models  # noqa: F401  puts ours into timm's registry
from foveate.adapters import adapt, describe
from foveate.adapters.macs import macs_of
from foveate.errors import InputError
from foveate.loading.load import load
from foveate.models.dense import ConvDecoder, DenseViT
from foveate.models.segmenter import MaskTransformer, Segmenter
from foveate.plans import Step
from foveate.runtimes import RUNTIMES
from foveate.runtimes._export import sharing_graphs

SMALL = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 5}
NAMES = (
    "segmenter_vit_tiny_patch16_512", "segmenter_vittm_tiny_patch28_504", "segmenter_vittm_tiny_patch32_mem16_512",
    "dense_vit_tiny_patch16_224",
)  # fmt: skip
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def small(name, **options):
    more = {"memory_patch_size": 8} if "mem" in name else {}
    return randomised(timm.create_model(name, **{**SMALL, **more, **options})).eval()


# The model.


@torch.no_grad()
def test_the_decoder_is_its_formula():
    d = randomised(MaskTransformer(24, 32, 2, 5)).eval()
    patches = torch.randn(2, 9, 24)
    x = torch.cat([d.proj_in(patches), d.class_tokens.repeat(2, 1, 1)], 1)
    for b in d.blocks.children():
        x = x + b.attn(b.norm1(x))
        x = x + b.mlp(b.norm2(x))
    x = d.norm(x)
    p, c = x[:, :9] @ d.patch_proj.weight.T, x[:, 9:] @ d.class_proj.weight.T
    cosine = torch.stack([torch.stack([F.cosine_similarity(p, c[:, k : k + 1], dim=-1)]) for k in range(5)], -1)[0]
    torch.testing.assert_close(d(patches), F.layer_norm(cosine, (5,), d.mask_norm.weight, d.mask_norm.bias))


@pytest.mark.parametrize(
    ("name", "options", "backbone", "decoder"),
    [
        ("segmenter_vit_base_patch16_512", {}, 107.0, 22.3),
        ("segmenter_vittm_base_patch28_504", {}, 37.7, 8.1),
        ("segmenter_vittm_base_patch32_mem16_512", {"output": "memory"}, 38.1, 6.7),
    ],
)
def test_costs_are_those_of_the_specification(name, options, backbone, decoder):
    with torch.device("meta"):
        facts = describe(timm.create_model(name, **options))
    whole = facts.macs(facts.cut(())) / 1e9
    assert facts.decoder / 1e9 == pytest.approx(decoder, abs=0.05)
    assert whole - facts.decoder / 1e9 == pytest.approx(backbone, abs=0.25)  # the specification leaves out some sums


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (NAMES[0], {}),
        (NAMES[0], {"num_classes": 1, "decoder_depth": 1, "img_size": 96}),
        (NAMES[3], {}),
        (NAMES[3], {"num_classes": 1, "channels": (7,), "img_size": 96}),
        ("dense_vit_small_patch14_dinov2", {"channels": (12, 6, 5, 3)}),
    ],
)
def test_the_formula_is_what_torch_counts(name, options):
    model = small(name, **options)
    facts = describe(model)
    assert macs_of(model).total == facts.macs(facts.cut(()))
    assert macs_of(model).total > facts.decoder > 0


@torch.no_grad()
def test_the_convolutional_decoder_is_its_formula():
    """A transposed convolution adds every value times the kernel, two apart; what falls past the rim is cut."""
    d = randomised(ConvDecoder(3, (4, 2), 5)).eval()
    for name, buffer in d.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.copy_(torch.rand(buffer.shape) + 0.5)
    x = image = torch.randn(2, 3, 2, 3)
    for i in (1, 2):
        up, bn = getattr(d, f"upconv{i}"), getattr(d, f"bn{i}")
        (h, w), out = x.shape[2:], up.weight.shape[1]
        whole = torch.zeros(2, out, 2 * h + 2, 2 * w + 2)
        for r in range(h):
            for c in range(w):
                spread = torch.einsum("bi,iokl->bokl", x[:, :, r, c], up.weight)
                whole[:, :, 2 * r : 2 * r + 4, 2 * c : 2 * c + 4] += spread
        x = whole[:, :, 1:-1, 1:-1] + up.bias[:, None, None]
        share = bn.weight / (bn.running_var + bn.eps).sqrt()
        x = ((x - bn.running_mean[:, None, None]) * share[:, None, None] + bn.bias[:, None, None]).clamp(min=0)
    want = torch.einsum("bihw,oi->bohw", x, d.final_conv.weight[:, :, 0, 0]) + d.final_conv.bias[:, None, None]
    torch.testing.assert_close(d(image), want, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_dense_head_reads_tokens_behind_the_final_norm():
    model = small(NAMES[3])
    tokens = model.backbone.forward_features(IMAGE)[:, 1:]
    logits = model.decoder(tokens.mT.unflatten(-1, (4, 4)))
    assert logits.shape == (2, 5, 32, 32)
    torch.testing.assert_close(model(IMAGE), F.interpolate(logits, size=(64, 64), mode="bilinear"))


def test_names_in_a_dense_models_file():
    model = small(NAMES[3], channels=(8, 4))
    own = [name for name in model.state_dict() if name.startswith("decoder.")]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert own == [
        *(f"decoder.{part}{i}.{x}" for i in (1, 2) for part, names in (("upconv", norm[:2]), ("bn", norm))
          for x in names),
        "decoder.final_conv.weight", "decoder.final_conv.bias",
    ]  # fmt: skip
    vit = timm.create_model("vit_tiny_patch16_224", **{**SMALL, "num_classes": 0})
    assert [n.removeprefix("backbone.") for n in model.state_dict() if n.startswith("backbone.")] == list(
        vit.state_dict()
    )


@torch.no_grad()
def test_masks_of_merged_tokens_are_what_runtimes_draw(tmp_path):
    model = small(NAMES[3], channels=(8, 4), num_classes=1)
    reduced = adapt(model, [Step(block=1, method="tome", tokens=1 + 9)])
    want, image = reduced(IMAGE[:1]).numpy(), IMAGE[:1].numpy()
    with sharing_graphs():
        for name in ("onnxruntime", "openvino"):
            built = RUNTIMES[name].build(reduced, tmp_path / name, shape=(1, 3, 64, 64), precision="fp32")
            found = RUNTIMES[name].load(built, precision="fp32", threads=1)(image)
            np.testing.assert_allclose(found, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_of_use(name):
    model = small(name)
    model(IMAGE).square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_adapted_it_answers_the_same_and_reduced_it_still_covers_the_image(name):
    model = small(name)
    assert model(IMAGE).shape == (2, 5, 64, 64)
    torch.testing.assert_close(adapt(model)(IMAGE), model(IMAGE), atol=1e-5, rtol=1e-5)
    tokens = describe(model).prefix + 9
    reduced = adapt(model, [Step(block=1, method="tome", tokens=tokens)])
    assert reduced(IMAGE).shape == (2, 5, 64, 64)
    assert list(reduced.state_dict()) == [f"host.{k}" for k in model.state_dict()]


@pytest.mark.parametrize("name", [NAMES[0], NAMES[3]])
@torch.no_grad()
def test_merged_patches_share_what_they_show(name):
    """Of an image all alike in one half, merging within that half changes next to nothing there."""
    model = small(name)
    reduced = adapt(model, [Step(block=0, method="tome", tokens=1 + 12)])
    same = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        model.backbone.pos_embed.zero_()
    torch.testing.assert_close(reduced(same), model(same), atol=1e-4, rtol=1e-4)


def test_a_backbone_without_maps_is_refused():
    for cls in (Segmenter, DenseViT):
        with pytest.raises(InputError, match=f"Linear gives no feature maps; a {cls.__name__} needs"):
            cls(nn.Linear(2, 2))
        with pytest.raises(InputError, match="unknown backbone 'hf-hub:a/b'; allowed: a name in timm's registry"):
            cls("hf-hub:a/b")
        with pytest.raises(InputError, match=f"num_classes is 0 in a {cls.__name__}; allowed: 1 or more"):
            cls("vit_tiny_patch16_224", num_classes=0)
    with pytest.raises(InputError, match=r"channels is \(8, 0\); allowed"):
        DenseViT("vit_tiny_patch16_224", channels=(8, 0))
    model = small(NAMES[0])
    model.backbone = timm.create_model("iret_residual_tiny_patch16_224", **SMALL)
    with pytest.raises(InputError, match=r"no masks on a IRET; known: VisionTransformer, .*ViTTM$"):
        adapt(model)


def test_a_vittm_of_another_size_is_the_one_that_resamples():
    model = randomised(timm.create_model("vittm_tiny_patch28_224", img_size=56, embed_dim=32, num_heads=2, depth=2))
    model.eval()
    image = torch.randn(1, 3, 84, 84)
    with torch.no_grad():
        resampled = model(image)
        model.set_input_size(84)
        torch.testing.assert_close(model(image), resampled)
    with pytest.raises(InputError, match="28 pixels does not divide"):
        model.set_input_size(90)


def test_maps_of_a_vittm_are_both_streams_side_by_side():
    model = small(NAMES[1]).backbone
    final, maps = model.forward_intermediates(IMAGE, indices=2)
    assert [m.shape for m in maps] == [(2, 64, 4, 4)] * 2
    torch.testing.assert_close(maps[-1].flatten(2).mT, torch.cat([final.process, final.memory], -1))
    with pytest.raises(InputError, match="output_fmt"):
        model.forward_intermediates(IMAGE, output_fmt="NHWC")


# A published head on a real ViT-S/14.


@pytest.mark.data
@torch.no_grad()
def test_the_saliency_model_draws_what_its_publishers_network_draws(data_root, tmp_path):
    """Positions are resampled with antialiasing here and without there; with theirs, the maps agree to 1e-5."""
    from support import saliency

    if reason := saliency.absent(data_root / "saliency", saliency.BACKBONE, saliency.DECODER, saliency.WHEEL):
        pytest.skip(reason)
    weights = saliency.merged(data_root / "saliency", tmp_path / "saliency.safetensors")
    loaded = load(saliency.NAME, weights=weights, **saliency.OPTIONS)
    assert (loaded.outputs, loaded.ref.tokens, loaded.ref.kwargs["num_classes"]) == ("masks", 257, 1)
    assert "from 37 x 37 patches to 16 x 16" in loaded.said[0]
    photos = sorted((data_root / "hires").glob("photo_*.jpg"))
    x = np.stack([loaded.preprocess(Image.open(path)) for path in photos])
    want = saliency.heat(data_root / "saliency", x)
    assert 0.1 < (want > 0.5).mean() < 0.5

    found = loaded.model(torch.from_numpy(x)).sigmoid().numpy()
    assert ((found > 0.5) == (want > 0.5)).mean() > 0.99 and np.abs(found - want).mean() < 0.02

    table = loaded.model.backbone.pos_embed
    theirs = load_file(weights)["backbone.pos_embed"]
    grid = F.interpolate(theirs[:, 1:].mT.unflatten(-1, (37, 37)), size=(16, 16), mode="bicubic")
    table.copy_(torch.cat([theirs[:, :1], grid.flatten(2).mT], 1))
    np.testing.assert_allclose(loaded.model(torch.from_numpy(x)).sigmoid().numpy(), want, atol=1e-4)

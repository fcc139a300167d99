"""Masks: Segmenter against its formula and published costs, windows, layouts, IoU, and a run from end to end."""

import json
import zipfile
from itertools import pairwise

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
from foveate.cli import app
from foveate.errors import InputError
from foveate.evaluate.iou import Overlap, iou, mean_iou
from foveate.evaluate.masks import VOID, decode_mask, find_masks
from foveate.evaluate.windows import segment, slide, starts
from foveate.loading.load import load
from foveate.models.dense import ConvDecoder, DenseViT
from foveate.models.segmenter import MaskTransformer, Segmenter
from foveate.plans import Step
from foveate.preprocess import Preprocess
from foveate.runtimes import RUNTIMES
from foveate.runtimes._export import sharing_graphs
from foveate.train import Augment, Recipe, Segment, train
from foveate.train.parts import augmented_masks

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
    for b in d.blocks:
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


# Windows.


def test_windows_cover_everything_and_end_flush():
    for length, window, stride in ((64, 64, 60), (100, 64, 60), (200, 64, 60), (124, 64, 60), (65, 64, 64)):
        found = starts(length, window, stride)
        assert found[0] == 0 and found[-1] == max(0, length - window)
        covered = {x for at in found for x in range(at, at + window)}
        assert covered == set(range(length))
        assert all(b - a <= stride for a, b in pairwise(found)) and len(set(found)) == len(found)
    with pytest.raises(InputError, match="stride is 65"):
        starts(100, 64, 65)


def test_where_windows_overlap_they_are_averaged():
    image = torch.randn(3, 70, 100)
    torch.testing.assert_close(slide(lambda x: x, image, 64, 20), image)
    calls = iter(range(100))
    total = slide(lambda x: torch.full((1, 1, 64, 64), float(next(calls))), image[:, :64], 64, 36)
    assert total[0, :, :36].unique().tolist() == [0.0] and total[0, :, 64:].unique().tolist() == [1.0]
    assert total[0, :, 36:64].unique().tolist() == [0.5]
    with pytest.raises(InputError, match="smaller than the window"):
        slide(lambda x: x, image[:, :50], 64, 20)


def test_a_photograph_keeps_its_size():
    pre = Preprocess(size=(32, 32), crop_pct=1.0, mean=(0, 0, 0), std=(1, 1, 1))
    photo = np.zeros((60, 90, 3), np.uint8)
    photo[:, 45:] = 255
    light = lambda x: torch.cat([0.5 - x[:, :1], x[:, :1] - 0.5], 1)  # class 1 where it is light
    found = segment(light, Image.fromarray(photo), pre)
    assert found.shape == (60, 90) and (found[:, :44] == 0).all() and (found[:, 46:] == 1).all()
    one = segment(lambda x: x[:, :1] - 0.5, Image.fromarray(photo), pre)  # a yes or no: yes above 0
    np.testing.assert_array_equal(one[:, [0, 89]], found[:, [0, 89]])


# Data.


def mask(count, wide=48, high=40):
    """Rows of classes, from the top, and a void row at the end."""
    rows = np.arange(high) * count // (high - 4)
    return np.where(rows < count, rows, VOID)[:, None].repeat(wide, 1).astype(np.uint8)


def write_pair(root, kind, split, name, seed, count=3):
    truth = mask(count)
    rng = np.random.default_rng(seed)
    shades = np.array([[200, 40, 40], [40, 180, 60], [40, 60, 200], [0, 0, 0]])
    photo = shades[np.where(truth == VOID, 3, truth)] + rng.normal(0, 20, (*truth.shape, 3))
    if kind == "ade":
        images, masks, stored = root / "images" / split, root / "annotations" / split, truth + 1  # 255 + 1 = 0
    else:
        images, masks, stored = root / split, root / f"{split}annot", np.where(truth == VOID, count, truth)
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(images / f"{name}.jpg", quality=95)
    Image.fromarray(stored.astype(np.uint8)).save(masks / f"{name}.png")
    return images / f"{name}.jpg", masks / f"{name}.png"


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    root = tmp_path_factory.mktemp("stripes")
    for split, count in (("train", 12), ("val", 4)):
        for i in range(count):
            write_pair(root, "segnet", split, f"{i:02}", i + 50 * (split == "val"))
    return root


@pytest.mark.parametrize("kind", ["ade", "segnet"])
def test_both_layouts_and_their_voids(kind, tmp_path):
    write_pair(tmp_path, kind, "training", "a", 0)
    found = find_masks(tmp_path, None, ("train", "training"), classes=3)
    with found.opened() as read:
        image, truth = read(0)
    assert image.size == (48, 40) and len(found) == 1
    np.testing.assert_array_equal(truth, mask(3))


def test_a_zip_is_read_alike(stripes, tmp_path):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for path in sorted(stripes.rglob("*.*")):
            archive.write(path, path.relative_to(stripes))
    a, b = (find_masks(data, "val", (), classes=3) for data in (stripes, tmp_path / "s.zip"))
    assert a.names == b.names and a.masks == b.masks
    with a.opened() as one, b.opened() as other:
        np.testing.assert_array_equal(one(1)[1], other(1)[1])


def test_what_is_wrong_with_masks_is_named(tmp_path):
    _, path = write_pair(tmp_path, "segnet", "val", "a", 0)
    pairs = find_masks(tmp_path, "val", (), classes=3)

    def complaint():
        with pairs.opened() as read, pytest.raises(InputError) as e:
            read(0)
        return str(e.value)

    Image.fromarray(np.full((40, 48), 7, np.uint8)).save(path)
    assert "valannot/a.png holds the label 7; allowed for 3 classes: 0 to 2, void: 3 and 255" in complaint()
    Image.fromarray(np.zeros((20, 48), np.uint8)).save(path)
    assert "is 48 x 20, its photograph 48 x 40" in complaint()
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(path)
    assert "is a RGB image; allowed: one channel" in complaint()
    path.write_bytes(path.read_bytes()[:60])
    assert "cannot be read" in complaint()
    with pytest.raises(InputError, match=r"no photographs with masks for test; allowed: images/SPLIT"):
        find_masks(tmp_path, "test", (), classes=3)


def test_palette_and_sixteen_bit_masks_are_labels(tmp_path):
    labels = np.arange(4)[None]
    palette = Image.fromarray(labels.astype(np.uint8))
    palette.putpalette(list(range(30)))
    for image in (palette, Image.fromarray(labels.astype(np.uint16))):
        image.save(tmp_path / "m.png")
        found = decode_mask((tmp_path / "m.png").read_bytes(), "m", classes=4, first=0)
        np.testing.assert_array_equal(found, labels)


def test_photographs_and_masks_are_cut_alike():
    """A mask painted into its photograph is found there after any augmentation."""
    recipe = Recipe(model="x", data="x", epochs=1, batch=1, lr=1, task=Segment(3), augment=Augment(color_jitter=0))
    pre = Preprocess(size=(32, 32), crop_pct=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)
    rng, seen = np.random.default_rng(0), 0
    truth = np.kron(rng.integers(0, 2, (4, 5)), np.ones((16, 16))).astype(np.uint8)
    photo = Image.fromarray((255 * truth)[..., None].repeat(3, -1))
    for seed in range(20):
        torch.manual_seed(seed)
        x, y = augmented_masks(recipe, pre)(photo, truth)
        assert x.shape == (3, 32, 32) and y.shape == (32, 32) and y.dtype == torch.int64
        sure = (y != VOID) & (x[0].abs() > 0.9)
        assert ((x[0] > 0) == (y == 1))[sure].all()
        assert x[:, y == VOID].abs().max() < 0.01 if (y == VOID).any() else True  # padding is mean grey
        seen += int(sure.sum())
    assert seen > 5000


# IoU.


def test_iou_is_torchmetrics_and_void_does_not_count():
    from torchmetrics.classification import MulticlassJaccardIndex

    rng = np.random.default_rng(0)
    metric, overlap = MulticlassJaccardIndex(5, ignore_index=VOID), Overlap(5)
    for _ in range(4):
        truth, found = (rng.integers(0, 4, (9, 7)).astype(np.uint8) for _ in range(2))  # class 4 never occurs
        truth[0] = VOID
        overlap.add(found, truth)
        metric.update(torch.from_numpy(found).long(), torch.from_numpy(truth).long())
    result = overlap.result()
    assert result.value == pytest.approx(100 * metric.compute().item(), abs=1e-4)
    assert result.low < result.value < result.high and result.n == 4
    assert np.isnan(iou(sum(overlap.counts))[4])
    assert mean_iou(np.eye(3, dtype=int) * 7) == 100


# From end to end.


def recipe(data, **more):
    values = {
        "model": "segmenter_vit_tiny_patch16_512", "image_size": 32, "data": str(data), "task": Segment(3), "epochs": 8,
        "options": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}, "batch": 4, "lr": 5e-3,
        "workers": 0, "precision": "fp32", "augment": Augment(zoom=(0.9, 1.3), color_jitter=0, flip=0),
    }  # fmt: skip
    return Recipe(**values | more)


def test_trained_judged_drawn_and_exported(stripes, tmp_path):
    from typer.testing import CliRunner

    done = train(recipe(stripes), tmp_path / "run")
    assert done.figure == "mIoU" and done.best_score > 60
    words = ["evaluate", str(done.out), "--data", str(stripes)]
    ran = CliRunner().invoke(app, [*words, "--page", str(tmp_path / "m.html"), "--json"], catch_exceptions=False)
    told = json.loads(ran.stdout)
    assert told["value"] == pytest.approx(done.best_score, abs=1e-6) and told["n"] == 4
    page = (tmp_path / "m.html").read_text()
    assert page.count("data:image/jpeg") == 4 * 3 and "class 2" in page

    import foveate

    loaded = load(str(done.out))
    plan = foveate.Plan(
        model=loaded.ref, steps=(), target=foveate.Target(runtime="onnxruntime", threads=1)
    )  # fmt: skip
    foveate.export(loaded.model, plan, tmp_path / "built", preprocess=loaded.preprocess)
    again = CliRunner().invoke(app, ["evaluate", str(tmp_path / "built"), *words[2:], "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["value"] == pytest.approx(told["value"], abs=0.2)


def test_the_wrong_task_is_named(stripes, tmp_path):
    from foveate.commands.evaluate import evaluate

    with pytest.raises(InputError, match=r"--task segmentation: .* answers with classes; allowed: --task classif"):
        evaluate("vit_tiny_patch16_224", random_weights=True, task="segmentation", data=stripes)
    with pytest.raises(InputError, match="task"):
        evaluate("clothing_vit", task="detection")
    with pytest.raises(InputError, match="answers with masks; allowed: --task segmentation"):
        evaluate("segmenter_vit_tiny_patch16_512", random_weights=True, task="classification", data=stripes)
    with pytest.raises(InputError, match="set both to 0"):
        train(recipe(stripes, augment=Augment(mixup=0.2)), tmp_path / "x")


def test_masks_that_cannot_be_used_are_counted_and_named(stripes, tmp_path):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(stripes, data)
    Image.fromarray(np.full((40, 48), 9, np.uint8)).save(data / "trainannot" / "03.png")
    told = []
    with pytest.raises(InputError, match=r"more than 1.0% of 12; last: .*03.png holds the label 9"):
        train(recipe(data, epochs=1), tmp_path / "a", progress=lambda stage, share, text: told.append(text))
    assert any("replaced:" in t for t in told)
    done = train(recipe(data, epochs=1, unreadable=0.2), tmp_path / "b")
    assert done.unreadable == 1


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

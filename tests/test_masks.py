"""Masks of photographs: windows, data, IoU, and from training to an exported file."""

import json
import zipfile
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

import foveate.models  # noqa: F401  puts ours into timm's registry
from foveate.cli import app
from foveate.errors import InputError
from foveate.evaluate.iou import Overlap, iou, mean_iou
from foveate.evaluate.masks import VOID, decode_mask, find_masks
from foveate.evaluate.windows import segment, slide, starts
from foveate.loading.load import load
from foveate.preprocess import Preprocess
from foveate.train import Augment, Recipe, Segment, train
from foveate.train.parts import augmented_masks

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

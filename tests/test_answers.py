"""What a model is judged on: the labels of every kind of output, masks cut as their photographs, and splits."""

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support.families import randomised

import foveate
import foveate.models  # puts ours into timm's registry
from foveate.errors import InputError
from foveate.evaluate import open_images
from foveate.evaluate.answers import UNMASKED, Sample, open_sample, photographs, reference_outputs
from foveate.evaluate.masks import VOID, aligned
from foveate.preprocess import Preprocess

PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}
PRE = Preprocess(size=(32, 32), crop_pct=1.0, **PLAIN)
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def loaded(name="vit_tiny_patch16_224", classes=0, **more):
    model = randomised(timm.create_model(name, **SMALL, num_classes=classes)).eval()
    fields = {"model": model, "ref": SimpleNamespace(name=name), "preprocess": PRE, "classes": None, "note": None}
    return SimpleNamespace(**fields | more)


def painted(truth):
    """A photograph that shows its mask: class 1 white, class 0 black, void grey."""
    shades = np.select([truth == 1, truth == VOID], [255, 128], 0).astype(np.uint8)
    return Image.fromarray(shades[..., None].repeat(3, -1))


@pytest.fixture
def drawn(tmp_path):
    """Six photographs with a mask and one without."""
    rng = np.random.default_rng(0)
    for folder in ("val", "valannot"):
        (tmp_path / folder).mkdir()
    for i in range(7):
        truth = np.kron(rng.integers(0, 2, (4, 5)), np.ones((16, 16))).astype(np.uint8)
        painted(truth).save(tmp_path / "val" / f"{i}.png")
        if i < 6:
            Image.fromarray(truth).save(tmp_path / "valannot" / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("shape", [(64, 90), (91, 60), (50, 50), (33, 200)])
@pytest.mark.parametrize("pre", [PRE, Preprocess(size=(32, 32), crop_mode="squash", **PLAIN),
                                 Preprocess(size=(24, 40), crop_pct=0.9, **PLAIN)])  # fmt: skip
def test_a_mask_lies_where_its_photograph_does(shape, pre):
    blocks = np.random.default_rng(1).integers(0, 2, (13, 13))
    bright = np.kron(blocks, np.ones((16, 16)))[: shape[0], : shape[1]].astype(np.uint8)
    x = pre(painted(bright))[0]
    sure = (x < 0.01) | (x > 0.99)
    assert sure.mean() > 0.3 and 0.1 < (x > 0.5)[sure].mean() < 0.9
    for label in (1, VOID):
        mask = aligned(bright * label, pre)
        assert mask.shape == pre.size and mask.dtype == np.uint8 and set(np.unique(mask)) == {0, label}
        np.testing.assert_array_equal(mask[sure] == label, (x > 0.5)[sure])


def test_what_lies_beyond_a_mask_is_void():
    wide = SimpleNamespace(placed=lambda high, wide: ((wide, high), (-2, 0, wide + 1, high + 3)))
    found = aligned(np.ones((4, 4), np.uint8), wide)
    assert found.shape == (7, 7) and (found[:4, 2:6] == 1).all() and (found == VOID).sum() == 49 - 16


def test_masks_and_photographs_come_together(drawn):
    model = loaded("segmenter_vit_tiny_patch16_512", 2)
    sample = open_sample(drawn, model)
    assert sample.x.shape == (6, 3, 32, 32) and sample.labels.shape == (6, 32, 32) and len(sample.images) == 6
    assert "1 photographs without a mask" in sample.images.note
    for x, labels in zip(sample.x, sample.labels, strict=True):
        sure = (x[0] < 0.02) | (x[0] > 0.98)
        assert sure.mean() > 0.5 and ((x[0] > 0.5) == labels)[sure].all()
    few = open_sample(drawn, model, limit=2, seed=1)
    assert len(few) == 2 and few.images.names != sample.images.names[:2]
    np.testing.assert_array_equal(few.images.decoded(PRE), few.x)
    one = open_sample(drawn, loaded("segmenter_vit_tiny_patch16_512", 1))  # one logit is two classes
    assert set(np.unique(one.labels)) == {0, 1}


def test_photographs_without_masks_serve_without_labels(drawn):
    model = loaded("segmenter_vit_tiny_patch16_512", 2)
    plain = open_sample(drawn / "val", model)
    assert plain.labels is None and len(plain) == 7 and plain.images.note == UNMASKED
    assert open_sample(None, model, limit=3).images.note is None
    (drawn / "val").rename(drawn / "odd")
    with pytest.raises(InputError, match="no photographs with masks"):  # else masks would pass for photographs
        open_sample(drawn, model)


def test_an_embeddings_labels_are_the_users_folders(tmp_path):
    for name in ("mine", "yours"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (40, 30), (60 * i, 9, 9)).save(tmp_path / name / f"{i}.png")
    sample = open_sample(tmp_path, loaded())
    assert sample.images.classes == ("mine", "yours") and sorted(sample.labels) == [0, 0, 0, 1, 1, 1]
    bundled = photographs(None, loaded(), limit=20)
    assert len(np.unique(bundled.labels)) == 10 and bundled.note is None
    with pytest.raises(InputError, match="2 of 2 folders"):  # a classifier's have to be its own
        open_sample(tmp_path, loaded(classes=7))
    assert sorted(open_sample(tmp_path, loaded(classes=1)).labels) == [0, 0, 0, 1, 1, 1]


def test_a_classifiers_photographs_are_what_they_were():
    found = foveate.load()
    sample = open_sample(None, found, limit=15)
    images = open_images(classes=found.classes, limit=15)
    assert sample.images.names == images.names and (sample.labels == images.labels).all()
    np.testing.assert_array_equal(sample.x, images.array(found.preprocess))
    for mine, theirs in zip(sample.split(0.6, 3), images.split(0.6, 3), strict=True):
        assert mine.images.names == theirs.names and (mine.labels == theirs.labels).all()
        np.testing.assert_array_equal(mine.x, theirs.array(found.preprocess))


def test_a_sample_is_split_into_all_of_it(drawn):
    sample = open_sample(drawn, loaded("segmenter_vit_tiny_patch16_512", 2))
    first, rest = sample.split(0.5)
    assert sorted(first.images.names + rest.images.names) == sorted(sample.images.names) and len(first) == len(rest)
    again = np.concatenate([first.x, rest.x]), np.concatenate([first.labels, rest.labels])
    at = [(first.images.names + rest.images.names).index(name) for name in sample.images.names]
    np.testing.assert_array_equal(again[0][at], sample.x)
    np.testing.assert_array_equal(again[1][at], sample.labels)
    assert isinstance(first, Sample) and sample.take([2]).images.names == (sample.images.names[2],)


@pytest.mark.parametrize(("name", "classes", "shape"), [
    ("vit_tiny_patch16_224", 0, (7, 32)), ("vit_tiny_patch16_224", 5, (7, 5)),
    ("segmenter_vit_tiny_patch16_512", 3, (7, 3, 32, 32)),
])  # fmt: skip
def test_reference_outputs_are_the_models_whatever_their_shape(name, classes, shape):
    model, x = loaded(name, classes).model, np.random.default_rng(0).normal(size=(7, 3, 32, 32)).astype(np.float32)
    found = reference_outputs(model, x, chunk=3)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(x)).numpy()
    assert found.shape == shape and found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)

"""Photographs in every layout people have, and one clear line for those they should not have."""

import shutil
import zipfile
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.folders import labelled, photo_folder

from foveate.errors import InputError
from foveate.evaluate import Images, open_images
from foveate.evaluate.data import _mixed
from foveate.evaluate.sources import Folder
from foveate.preprocess import Preprocess

CLASSES = ("cat", "dog", "T-Shirt")
SMALL = Preprocess(size=(32, 32))
CLOTHING = ("dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt", "t-shirt")


@pytest.fixture
def make(tmp_path):
    """`make("cat/a.jpg", ("labels.csv", text), ...)`: see `photo_folder`."""
    return partial(photo_folder, tmp_path)


NIPS = "ImageId,URL,TrueLabel\na,x,1\nb,x,1000\n"
SYNSETS = ("n01440764/a.jpg", "n15075141/b.JPEG")
LAYOUTS = {
    "flat": (("a.jpg", "b.png"), CLASSES, {"a.jpg": None, "b.png": None}),
    "names": (("cat/a.jpg", "t_shirt/b.png", "dog/c.jpg"), CLASSES, {"a.jpg": 0, "b.png": 2, "c.jpg": 1}),
    "deeper": (("cat/x/a.jpg", "dog/b.jpg"), CLASSES, {"a.jpg": 0, "b.jpg": 1}),
    "one class": (("dog/a.jpg", "dog/b.jpg"), CLASSES, {"a.jpg": 1, "b.jpg": 1}),
    "indices": (("0/a.jpg", "2/b.jpg"), CLASSES, {"a.jpg": 0, "b.jpg": 2}),
    "indices, nothing known": (("0/a.jpg", "217/b.jpg"), None, {"a.jpg": 0, "b.jpg": 217}),
    "indices are names first": (("9/a.jpg", "7/b.jpg"), ("7", "8", "9"), {"a.jpg": 2, "b.jpg": 0}),
    "sorted, as many": (("x/a.jpg", "y/b.jpg"), 2, {"a.jpg": 0, "b.jpg": 1}),
    "names, nothing known": (("x/a.jpg", "y/b.jpg"), None, {"a.jpg": None, "b.jpg": None}),
    "wordnet": (SYNSETS, tuple(map(str, range(1000))), {"a.jpg": 0, "b.JPEG": 999}),
    "table": (
        ("a.jpg", "in/b.jpg", "images/c.jpg", ("labels.csv", "File, Label\na.jpg,dog\nin/b.jpg,2\nc.jpg,Cat\n")),
        CLASSES,
        {"a.jpg": 1, "b.jpg": 2, "c.jpg": 0},
    ),
    "nips17": (("images/a.jpg", "images/b.png", ("images.csv", NIPS)), 1000, {"a.jpg": 0, "b.png": 999}),
    "one folder of photographs": (("holiday/a.jpg", "holiday/b.jpg"), CLASSES, {"a.jpg": None, "b.jpg": None}),
    "rubbish beside": (
        ("cat/a.jpg", "dog/b.jpg", (".x.jpg", "x"), ("__MACOSX/cat/._a.jpg", "x"), ("cat/Thumbs.db", "x")),
        CLASSES,
        {"a.jpg": 0, "b.jpg": 1},
    ),
}


@pytest.mark.parametrize("zipped", [False, True, "wrapped"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(make, layout, zipped):
    files, classes, expected = LAYOUTS[layout]
    images = open_images(make(*files, zipped=zipped), classes=classes)
    assert labelled(images) == expected and len(images) == len(expected) and not images.skipped
    assert images.array(SMALL).shape == (len(expected), 3, 32, 32)
    assert images[0].size == (16, 12) and [i.mode for i in images] == ["RGB"] * len(images)
    unused = layout in ("names, nothing known", "one folder of photographs") or (layout, zipped) == ("flat", "wrapped")
    assert (images.note is not None) == unused


def test_imagenet_words(make):
    from timm.data.imagenet_info import ImageNetInfo

    classes = ImageNetInfo("imagenet-1k").label_descriptions()
    root = make("tench/a.jpg", "great grey owl/b.jpg", "n02012849/c.jpg")
    assert labelled(open_images(root, classes=classes)) == {"a.jpg": 0, "b.jpg": 24, "c.jpg": 134}
    shutil.rmtree(root)
    with pytest.raises(InputError, match="crane"):  # two classes of that name: a bird and a machine
        open_images(make("tench/a.jpg", "crane/b.jpg"), classes=classes)


@pytest.mark.parametrize("zipped", [False, True])
def test_splits_are_refused_and_chosen(make, zipped):
    files = ("train/cat/a.jpg", "train/dog/b.jpg", "val/cat/c.jpg", "val/dog/d.jpg")
    path = make(*files, zipped=zipped)
    for classes in (CLASSES, None, 2):
        with pytest.raises(InputError, match=r"splits \(train, val\).*val"):
            open_images(path, classes=classes)
    assert labelled(open_images(path / "val", classes=CLASSES)) == {"c.jpg": 0, "d.jpg": 1}
    assert len(open_images(path, classes=CLASSES, unlabelled=True)) == 4


OWN = {
    "strangers": (("holiday/a.jpg", "cats/b.jpg"), {"a.jpg": 1, "b.jpg": 0}, ("cats", "holiday")),
    "numbers are names": (("7/a.jpg", "12/b.jpg"), {"a.jpg": 1, "b.jpg": 0}, ("12", "7")),
    "deeper": (("x/1/a.jpg", "y/b.jpg", "y/2/c.jpg"), {"a.jpg": 0, "b.jpg": 1, "c.jpg": 1}, ("x", "y")),
    "flat": (("a.jpg", "b.jpg"), {"a.jpg": None, "b.jpg": None}, None),
    "table": (
        ("a.jpg", "b.jpg", "c.jpg", ("labels.csv", "file,label\na.jpg, mine\nb.jpg,Mine\nc.jpg,mine\n")),
        {"a.jpg": 1, "b.jpg": 0, "c.jpg": 1},
        ("Mine", "mine"),
    ),
    "nips17": (("images/a.jpg", "images/b.png", ("images.csv", NIPS)), {"a.jpg": 0, "b.png": 1}, ("1", "1000")),
}


@pytest.mark.parametrize("layout", OWN)
def test_labels_of_the_users_own(make, layout):
    files, expected, names = OWN[layout]
    for classes in (None, CLASSES, 1000):  # the model's are not asked
        images = open_images(make(*files, name=f"set{classes}"), classes=classes, own_classes=True)
        assert labelled(images) == expected and images.classes == names and images.note is None


def test_the_bundled_have_classes_of_their_own_and_splits_are_no_classes(make):
    own = open_images(own_classes=True)
    assert own.classes == CLOTHING and np.array_equal(np.bincount(own.labels), [10] * 10)
    with pytest.raises(InputError, match="splits"):
        open_images(make("train/cat/a.jpg", "val/cat/c.jpg"), own_classes=True)


REFUSED = {
    "no such folder": ((), CLASSES, "no folder or .zip"),
    "nothing in it": ((("notes.txt", "x"),), CLASSES, r"no photographs; allowed: \.jpg.*left out: 1 \.txt"),
    "two labels": (
        ("a.jpg", ("labels.csv", "file,label\na.jpg,cat\na.jpg,dog\n")),
        CLASSES,
        "a.jpg twice: 'cat' in line 2, 'dog' in line 3",
    ),
    "strangers": (("cat/a.jpg", "cow/b.jpg"), CLASSES, r"1 of 2 folders.*\(cow\); allowed: cat, dog"),
    "index too large": (("0/a.jpg", "3/b.jpg"), CLASSES, r"\(3\)"),
    "another number": (("x/a.jpg", "y/b.jpg"), 3, "allowed: 0 to 2"),
    "mixture": (("a.jpg", "cat/b.jpg"), CLASSES, "beside folders"),
    "columns": (("a.jpg", ("labels.csv", "a,b\n1,2\n")), CLASSES, "allowed: file,label"),
    "no rows": (("a.jpg", ("labels.csv", "file,label\n")), CLASSES, "lists no photographs"),
    "lost": (("a.jpg", ("labels.csv", "file,label\na.jpg,0\nb.jpg,0\n")), CLASSES, "1 files that are not there.*b.jpg"),
    "label": (("a.jpg", ("labels.csv", "file,label\na.jpg,cow\n")), CLASSES, "line 2: label 'cow'"),
    "label index": (("a.jpg", ("labels.csv", "file,label\na.jpg,3\n")), CLASSES, "line 2: label '3'"),
    "label, nothing known": (("a.jpg", ("labels.csv", "file,label\na.jpg,cow\n")), None, "an index"),
    "TrueLabel": (("images/a.jpg", ("images.csv", "ImageId,TrueLabel\na,0\n")), 1000, "1 to 1000"),
    "encoding": (("a.jpg", ("labels.csv", b"file,label\n\xff\xfe,0\n")), CLASSES, "not a table"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(make, case):
    files, classes, message = REFUSED[case]
    root = make(*files)
    with pytest.raises(InputError, match=message) as e:
        open_images(root, classes=classes)
    assert str(root) in str(e.value) and "\n" not in str(e.value)


def test_not_an_archive(tmp_path):
    (path := tmp_path / "x.zip").write_text("no")
    for at in (path, path / "val"):
        with pytest.raises(InputError, match=r"x\.zip is a file; allowed: a folder"):
            open_images(at)
    with pytest.raises(InputError, match="limit 0"):
        open_images(limit=0)


@pytest.mark.parametrize("zipped", [False, True])
def test_bad_photographs(make, zipped):
    path = make("a.jpg", "b.jpg", ("c.jpg", b""), ("d.png", "text"), zipped=zipped)
    with pytest.raises(InputError, match=r"[cd]\.(jpg|png).*\(and 1 more unreadable\)") as e:
        open_images(path)
    assert "\n" not in str(e.value)
    images = open_images(path, skip_bad=True)
    assert sorted(images.names) == ["a.jpg", "b.jpg"] and sorted(images.skipped) == ["c.jpg", "d.png"]
    assert "2 unreadable" in str(images)
    for seed in range(6):  # the limit counts good ones
        assert len(open_images(path, skip_bad=True, limit=2, seed=seed)) == 2
    with pytest.raises(InputError, match="none of the 2"):
        open_images(make(("c.jpg", b""), ("d.png", "text"), name="all"), skip_bad=True)


def test_damaged_archive_member(make):
    path = make("a.bmp", "b.bmp", zipped=True)
    with zipfile.ZipFile(path) as z:
        at = z.getinfo("a.bmp").header_offset + 100
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF  # the CRC no longer fits
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.bmp"):
        open_images(path)
    assert open_images(path, skip_bad=True).skipped == ("a.bmp",)


def test_a_photograph_that_goes_bad_later(make):
    path = make("a.jpg", "b.jpg")
    images = open_images(path)
    (path / "b.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"b\.jpg is empty"):
        images.array(SMALL)


def test_links_are_followed_once(make, tmp_path):
    root = make("cat/a.jpg", "dog/b.jpg")
    (root / "T-Shirt").symlink_to(make("c.jpg", name="elsewhere"), target_is_directory=True)
    (root / "cat" / "up").symlink_to(root, target_is_directory=True)
    assert labelled(open_images(root, classes=CLASSES)) == {"a.jpg": 0, "b.jpg": 1, "c.jpg": 2}


def test_bundled():
    images = open_images(classes=CLOTHING)
    assert len(images) == 100 and np.array_equal(np.bincount(images.labels), [10] * 10)
    assert all(CLOTHING[label] == name.split("/")[0] for name, label in zip(images.names, images.labels, strict=True))
    assert np.array_equal(np.sort(images.labels[:10]), np.arange(10))  # every beginning holds the classes in proportion
    again, other = open_images(classes=CLOTHING), open_images(classes=CLOTHING, seed=1)
    assert again.names == images.names and other.names != images.names and sorted(other.names) == sorted(images.names)
    assert images.digest == again.digest != other.digest
    assert open_images(classes=CLOTHING, limit=7).names == images.names[:7] == images[:7].names
    for classes in (None, 10, ("a", "b"), ("a",) * 1000):  # nothing ties their labels to such a model
        unknown = open_images(classes=classes, limit=5)
        assert unknown.labels is None and "not used" in unknown.note
    assert open_images(unlabelled=True, limit=3).note is None


def test_bundled_are_small_and_come_with_the_package():
    from importlib.resources import files

    sizes = [len(p.read_bytes()) for d in (files("foveate") / "assets" / "photos").iterdir() for p in d.iterdir()]
    assert len(sizes) == 100 and sum(sizes) < 1.3e6


def test_array_is_each_photograph_alone():
    images = open_images(classes=CLOTHING, limit=9)
    x = images.array(SMALL)
    assert x is images.array(SMALL) and not x.flags.writeable and x.dtype == np.float32
    assert all(np.array_equal(row, SMALL(image)) for row, image in zip(x, images, strict=True))
    assert np.array_equal(np.concatenate(list(images.batches(SMALL, 4))), x)
    assert np.array_equal(images.take([3, 1]).array(SMALL), x[[3, 1]])


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.integers(2, 60)),
    st.floats(0.01, 0.99),
    st.integers(0, 9),
)
def test_split_is_disjoint_exhaustive_and_in_proportion(labels, share, seed):
    count = labels if isinstance(labels, int) else len(labels)
    labels = None if isinstance(labels, int) else np.asarray(labels)
    images = Images(Folder("x"), tuple(f"{i:02}" for i in range(count)), labels)
    first, rest = images.split(share, seed)
    assert sorted(first.names + rest.names) == sorted(images.names) and len(first) and len(rest)
    assert len(first) == min(max(round(share * count), 1), count - 1)
    assert list(first.names) == sorted(first.names)
    again = images.split(share, seed)
    assert again[0].names == first.names
    if labels is not None:
        kinds = np.unique(labels)
        for kind in kinds:
            own = (labels == kind).sum()
            assert abs((first.labels == kind).sum() - own * len(first) / count) <= 1 + own * len(kinds) / count


def test_split_refuses():
    images = Images(Folder("x"), ("a", "b"))
    for share in (0, 1, -1, float("nan")):
        with pytest.raises(InputError, match="share"):
            images.split(share)
    with pytest.raises(InputError, match="at least 2"):
        images[:1].split(0.5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=50), st.integers(0, 5))
def test_mixing_is_an_order(labels, seed):
    labels = np.asarray(labels)
    order = _mixed(labels, len(labels), seed)
    assert sorted(order) == list(range(len(labels)))
    assert np.array_equal(order, _mixed(labels, len(labels), seed))


@pytest.mark.data
def test_bundled_are_the_test_photographs_unchanged(data_root):
    images = open_images(classes=CLOTHING)
    with zipfile.ZipFile(data_root / "clothing10" / "clothing10_160.zip") as z, images.source.reader() as read:
        known = {z.read(name) for name in z.namelist() if name.startswith("test/")}
        assert {read(name) for name in images.names} <= known


@pytest.mark.data
def test_real_archives(data_root):
    path = data_root / "clothing10" / "clothing10_160.zip"
    with pytest.raises(InputError, match="splits"):
        open_images(path, classes=CLOTHING)
    test = open_images(path / "test", classes=CLOTHING)
    assert np.bincount(test.labels).tolist() == [15, 12, 72, 38, 42, 26, 73, 30, 12, 52]
    nips = open_images(data_root / "nips17_dev" / "nips17_dev_299.zip", classes=1000)
    assert len(nips) == 1000 and len(np.unique(nips.labels)) == 430
    nette = open_images(data_root / "imagenette10" / "imagenette10_112.zip" / "val", classes=1000, limit=200)
    assert np.unique(nette.labels).tolist() == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    assert len(open_images(data_root / "hires")) == 11

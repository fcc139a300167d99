"""What is left out of a folder of photographs, or may be understood otherwise, is told; names of any spelling."""

import os
import re
import shutil
import unicodedata
from functools import partial
from pathlib import Path

import pytest
from support.folders import labelled, photo_folder
from support.images import two_tone

from foveate.evaluate import open_images
from foveate.preprocess import SUFFIXES

CLASSES = ("cat", "dog", "T-Shirt")


@pytest.fixture
def make(tmp_path):
    """`make("cat/a.jpg", ("labels.csv", text), ...)`: see `photo_folder`."""
    return partial(photo_folder, tmp_path)


META = "file_name,label\na.jpg,dog\nin/b.jpg,0\n"
JSONL = '{"file_name": "a.jpg", "label": "dog"}\n\n{"file_name": "in/b.jpg", "label": 0, "more": [1]}\n'
TOLD = {
    "Hugging Face's table": (("a.jpg", "in/b.jpg", ("metadata.csv", META)), CLASSES, {"a.jpg": 1, "b.jpg": 0}, None),
    "the same as JSON": (("a.jpg", "in/b.jpg", ("metadata.jsonl", JSONL)), CLASSES, {"a.jpg": 1, "b.jpg": 0}, None),
    "captions": (
        ("cat/a.jpg", "dog/b.jpg", ("metadata.csv", "file_name,text\ncat/a.jpg,a cat\n")), CLASSES,
        {"a.jpg": 0, "b.jpg": 1}, r"left out: 1 \.csv \(metadata.csv\)",
    ),
    "not in the table": (
        ("a.jpg", "b.jpg", ("labels.csv", "file,label\na.jpg,dog\n")), CLASSES, {"a.jpg": 1},
        r"1 photographs that labels.csv does not list \(b.jpg",
    ),
    "a line twice": (
        ("a.jpg", "b.jpg", ("labels.csv", "file,label\na.jpg,dog\nb.jpg,cat\na.jpg,dog\n")), CLASSES,
        {"a.jpg": 1, "b.jpg": 0}, "1 lines of labels.csv say what one before them said",
    ),
    "another camera's": (
        ("cat/a.jpg", "dog/b.jpg", ("dog/c.heic", "x"), ("dog/d.HEIC", "x"), ("cat/e", "x")), CLASSES,
        {"a.jpg": 0, "b.jpg": 1}, r"left out: 2 \.heic \(dog/c.heic ...\), 1 without a suffix \(cat/e\)",
    ),
    "numbers": (
        tuple(f"{i}/{i}.jpg" for i in range(11)), 11, {f"{i}.jpg": i for i in range(11)},
        r"taken as indices: 10 is class 10 \(ImageFolder sorts 0 to 10 by name and makes it class 2",
    ),
    "numbers in either order": (("0/a.jpg", "1/b.jpg"), 2, {"a.jpg": 0, "b.jpg": 1}, None),
    "a folder without any": (
        ("cat/a.jpg", ("dog/notes.txt", "x")), 2, {"a.jpg": 0}, "no photographs in the class folders dog",
    ),
    "one of several without any": (
        ("cat/a.jpg", "cow/b.jpg", ("dog/notes.txt", "x")), 3, {"a.jpg": 0, "b.jpg": 1}, "in the class folders dog",
    ),
    "a headless model": (("cat/a.jpg", "dog/b.jpg"), 0, {"a.jpg": None, "b.jpg": None}, "class folders are not used"),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("layout", TOLD)
def test_what_is_left_out_or_understood_is_told(make, layout, zipped):
    files, classes, expected, told = TOLD[layout]
    images = open_images(make(*files, zipped=zipped), classes=classes)
    assert labelled(images) == expected
    if told is None:
        assert images.note is None
    else:
        assert re.search(told, images.note or ""), images.note


@pytest.mark.parametrize("zipped", [False, True])
def test_an_empty_class_folder_counts(make, zipped):
    root = make("cat/a.jpg")
    (root / "dog").mkdir()
    if zipped:
        root = Path(shutil.make_archive(str(root), "zip", root))
    images = open_images(root, classes=2)
    assert labelled(images) == {"a.jpg": 0} and "dog" in (images.note or "")


def test_names_alike_but_for_their_composition_or_case(make):
    names = ("caf\u00e9", "\u00fcber", "Crane", "crane")
    folders = [unicodedata.normalize("NFD", name) for name in names]
    images = open_images(make(*(f"{folder}/{i}.jpg" for i, folder in enumerate(folders))), classes=names)
    assert labelled(images) == {f"{i}.jpg": i for i in range(4)}


@pytest.mark.parametrize("suffix", ["jfif", "avif"])
def test_photographs_as_browsers_save_them(make, tmp_path, suffix):
    if f".{suffix}" not in SUFFIXES:
        pytest.skip("this Pillow reads no AVIF")
    root = make("cat/a.jpg")
    two_tone(size=(16, 12)).save(root / f"cat/b.{suffix}", "JPEG" if suffix == "jfif" else "AVIF")
    assert labelled(open_images(root, classes=CLASSES)) == {"a.jpg": 0, f"b.{suffix}": 0}


def test_a_name_that_is_not_utf8_has_a_digest(make):
    root = make("a.jpg")
    shutil.copy(root / "a.jpg", os.fsencode(root) + b"/caf\xe9.jpg")
    first, second = open_images(root), open_images(root)
    assert len(first.digest) == 12 and first.digest == second.digest

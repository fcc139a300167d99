"""What is left out of a folder of photographs, or may be understood otherwise, is told; names of any spelling."""

import io
import os
import re
import shutil
import tracemalloc
import unicodedata
import zipfile
from functools import partial
from pathlib import Path

import pytest
from support.folders import labelled, photo_folder
from support.images import two_tone

from foveate.errors import InputError
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


NUMBERED = tuple(f"{i}/{i}.jpg" for i in range(12))


def test_folders_in_the_order_of_their_names(make):
    """As torchvision's ImageFolder has them, whatever they are called; a table beside them is not read."""
    root = make(*NUMBERED, ("labels.csv", "file,label\n0/0.jpg,5\n"))
    images = open_images(f"imagefolder:{root}", classes=12)
    assert labelled(images) == {f"{n}.jpg": i for i, n in enumerate(sorted(map(str, range(12))))}
    assert images.classes == tuple(sorted(map(str, range(12))))
    names = tuple(f"class {i}" for i in range(12))
    assert open_images(f"imagefolder:{root}", classes=names).classes == names
    assert open_images(f"imagefolder:{root}", unlabelled=True).labels is None


def test_folders_in_order_have_to_be_as_many_as_classes(make, tmp_path):
    root = make("cat/a.jpg", "dog/b.jpg")
    with pytest.raises(InputError, match=r"has 2 class folders \(cat, dog\), the model 3 classes"):
        open_images(f"imagefolder:{root}", classes=3)
    (root / "elk").mkdir()
    assert labelled(open_images(f"imagefolder:{root}", classes=3)) == {"a.jpg": 0, "b.jpg": 1}
    with pytest.raises(InputError, match="outside class folders"):
        open_images(f"imagefolder:{make('a.jpg', name='loose')}", classes=1)


@pytest.mark.parametrize("name", ["labels.csv", "metadata.jsonl"])
def test_a_table_that_unpacks_to_a_bomb_is_refused_before_it_is_read(tmp_path, name):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        file = io.BytesIO()
        two_tone(size=(16, 12)).save(file, "JPEG")
        archive.writestr("a.jpg", file.getvalue())
        with archive.open(name, "w") as table:
            for _ in range(65):
                table.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(InputError, match="allowed: at most 67,108,864"):
        open_images(path, classes=3)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_a_long_table_takes_little_more_than_its_text(make):
    """A million lines that name nothing here: none of them is kept."""
    root = make("a.jpg", ("labels.csv", "file,label\n" + "nowhere.jpg,1\n" * 200_000))
    tracemalloc.start()
    with pytest.raises(InputError, match="lists 200000 files that are not there, first 'nowhere"):
        open_images(root, classes=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 2_800_000


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.csv", "file,label\na.jpg," + "9" * 5000, "label '99999"),
        ("labels.csv", "file,label\n" + "," * (2**20 + 1), "line 2 has over 1,048,576 characters"),
        ("metadata.jsonl", '{"file_name": "a.jpg", "label": ' + "[" * 100_000, "not a table"),
        ("metadata.jsonl", '{"file_name": "a.jpg", "label": 1}\n[]\n', "line 2 is no JSON object"),
        ("images.csv", "ImageId,TrueLabel\na," + "1" * 5000, "TrueLabel '1111"),
    ],
)
def test_lines_that_are_none(make, name, text, message):
    with pytest.raises(InputError, match=message) as told:
        open_images(make("a.jpg", (name, text)), classes=3)
    assert len(str(told.value)) < 500

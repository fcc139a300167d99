"""Training's photographs: the same from every layout, and what is wrong with them in one clear line."""

import io
import shutil
import tarfile
import zipfile

import pytest
import torch
from support.lessons import COLOURS, losses, recipe

from foveate.errors import InputError, NotAvailable
from foveate.train import train
from foveate.train.data import Samples, seeded
from foveate.train.examples import find_split


def test_a_zip_is_a_folder(colours, tmp_path):
    with zipfile.ZipFile(tmp_path / "colours.zip", "w") as archive:
        for path in sorted(colours.rglob("*.png")):
            archive.write(path, path.relative_to(colours))
    runs = [
        train(recipe(data, epochs=1), tmp_path / str(i)) for i, data in enumerate((colours, tmp_path / "colours.zip"))
    ]
    assert losses(runs[0].out) == losses(runs[1].out)


def shards(colours, root):
    """Two shards a split."""
    root.mkdir()
    (root / "classes.txt").write_text("\n".join(sorted(COLOURS)) + "\n")
    for split in ("train", "val"):
        paths = sorted((colours / split).rglob("*.png"))
        for part in (0, 1):
            with tarfile.open(root / f"{split}-{part}.tar", "w") as archive:
                for i, path in enumerate(paths):
                    if i * 2 // len(paths) == part:
                        key = path.relative_to(colours / split).with_suffix("").as_posix()
                        for name, data in (
                            (f"{key}.png", path.read_bytes()),
                            (f"{key}.cls", str(sorted(COLOURS).index(path.parent.name)).encode()),
                        ):
                            info = tarfile.TarInfo(name)
                            info.size = len(data)
                            archive.addfile(info, io.BytesIO(data))
    return root


def test_shards_are_read_as_folders_are(colours, tmp_path):
    root = shards(colours, tmp_path / "shards")
    runs = [train(recipe(data, epochs=1), tmp_path / str(i)) for i, data in enumerate((colours, root))]
    assert losses(runs[0].out) == losses(runs[1].out)
    (root / "classes.txt").write_text("blue\ngreen\n")
    with pytest.raises(InputError, match=r"holds class 2; allowed by .*classes\.txt: 0 to 1"):
        train(recipe(root), tmp_path / "x")
    (root / "train-1.tar").write_bytes((root / "train-1.tar").read_bytes()[:700])
    with pytest.raises(InputError, match=r"train-1\.tar"):
        train(recipe(root), tmp_path / "x")


def test_a_hugging_face_data_set_is_read_as_folders_are(colours, tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"photo": datasets.Image(), "colour": datasets.ClassLabel(names=sorted(COLOURS))})
    splits = {}
    for split in ("train", "val"):
        paths = sorted((colours / split).rglob("*.png"))
        rows = {"photo": [str(p) for p in paths], "colour": [sorted(COLOURS).index(p.parent.name) for p in paths]}
        splits[split] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    runs = [
        train(recipe(data, epochs=1), tmp_path / str(i)) for i, data in enumerate((colours, f"hf:{tmp_path / 'saved'}"))
    ]
    assert losses(runs[0].out) == losses(runs[1].out)
    with pytest.raises(InputError, match="has no split test; it has: train, val"):
        train(recipe(f"hf:{tmp_path / 'saved'}", val="test"), tmp_path / "x")
    with pytest.raises((InputError, NotAvailable), match="hf:no/such"):
        train(recipe("hf:no/such"), tmp_path / "x")


def test_decoding_processes_change_nothing(colours, tmp_path):
    alone = train(recipe(colours, epochs=1), tmp_path / "a")
    helped = train(recipe(colours, epochs=1, workers=2), tmp_path / "b")
    assert losses(alone.out) == losses(helped.out)


def test_an_image_depends_on_seed_epoch_and_index_alone(colours):
    photographs = find_split(colours, None, ("train",))
    samples = Samples(photographs, lambda image, label: (torch.rand(3), label), seed=1)
    state = torch.get_rng_state()
    first = samples[0, 5][0]
    samples[0, 6]
    assert torch.equal(samples[0, 5][0], first) and not torch.equal(samples[1, 5][0], first)
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(1), seeded(2):
        pass


# What is wrong.


def copied(colours, to):
    return shutil.copytree(colours, to)


def test_classes_that_differ_are_named(colours, tmp_path):
    root = copied(colours, tmp_path / "data")
    (root / "val" / "red").rename(root / "val" / "pink")
    with pytest.raises(InputError, match=r"differ in 2 classes: red \(in .*train alone\), pink \(in .*val alone\)"):
        train(recipe(root), tmp_path / "run")


def test_an_empty_class_is_named(colours, tmp_path):
    root = copied(colours, tmp_path / "data")
    for path in (root / "train" / "red").iterdir():
        path.rename(path.with_suffix(".txt"))
    with pytest.raises(InputError, match=r"class folders without photographs in .*train: red"):
        train(recipe(root), tmp_path / "run")


def test_no_data_is_told(tmp_path):
    with pytest.raises(InputError, match=r"has no photographs in train or training; allowed: SPLIT/CLASS/photo.jpg"):
        train(recipe(tmp_path), tmp_path / "run")
    with pytest.raises(InputError, match=r"data is \$NOWHERE/x: a variable in it is not set"):
        train(recipe("$NOWHERE/x"), tmp_path / "run")


def test_unreadable_images_are_counted_and_named_and_too_many_stop_it(colours, tmp_path):
    root, told = copied(colours, tmp_path / "data"), []
    (root / "train" / "red" / "03.png").write_bytes(b"not an image")
    done = train(recipe(root, unreadable=0.05, epochs=1), tmp_path / "a", progress=lambda *a: told.append(a[2]))
    assert done.unreadable == 1 and any("replaced: " in t and "red/03.png" in t for t in told)
    with pytest.raises(
        InputError, match=r"1 training images could not be read, more than 1.0% of 48; last: .*red/03.png"
    ):
        train(recipe(root, unreadable=0.01, epochs=1), tmp_path / "b")

"""A fitted folder of each kind of output, opened, run and judged: classes, one logit, vectors with a gallery, masks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from support.served import CLASSES, PREPROCESS, expected, make_folder
from typer.testing import CliRunner

from foveate.artefact import Artefact, read_card, write_gallery
from foveate.cli import app
from foveate.commands.evaluate import evaluate
from foveate.errors import InputError
from foveate.evaluate.gallery import Gallery
from foveate.evaluate.judges import shown
from foveate.evaluate.judges.showing import check_shape, drawn, pixel_shares
from foveate.evaluate.windows import segment
from foveate.preprocess import read_image

RNG = np.random.default_rng(4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    made = {kind: make_folder(root / kind, outputs=kind) for kind in ("classes", "embedding", "masks")}
    return made | {"yes": make_folder(root / "yes", width=1, classes=None)}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Two class folders of photographs that differ in their colour, so that any projection tells them apart."""
    root = tmp_path_factory.mktemp("few")
    for name, colour in (("red things", (220, 30, 30)), ("blue things", (20, 40, 230))):
        (root / name).mkdir()
        for i in range(6):
            noise = RNG.normal(0, 4, (40, 50, 3)) + colour
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(root / name / f"{i}.png")
    return root


def photos_of(few: Path) -> list[Path]:
    return sorted(few.rglob("*.png"))


def seen(paths) -> np.ndarray:
    return np.stack([PREPROCESS(read_image(p)) for p in paths])


def ran(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [*map(str, words)])
    line = done.stderr if done.exception is None or isinstance(done.exception, SystemExit) else str(done.exception)
    return done.exit_code, done.stdout, line


# The folder


def test_a_card_of_before_there_were_kinds_says_classes(folders, tmp_path):
    folder = shutil.copytree(folders["classes"], tmp_path / "old")
    (folder / "model.json").write_text('{"schema_version": 1, "file": "model.onnx", "classes": null, "note": null}')
    assert read_card(folder).outputs == "classes"
    assert Artefact(folder).outputs == "classes"


def test_what_a_kind_cannot_answer_says_what_to_call(folders, few):
    photo = photos_of(few)[0]
    calls = {"classes": "top", "embedding": "embed", "masks": "masks"}
    for kind in calls:
        opened = Artefact(folders[kind])
        for other, call in calls.items():
            argument = photo if other == "classes" else [photo]
            if other == kind:
                getattr(opened, call)(argument)
                continue
            with pytest.raises(InputError, match=rf"answers with {kind}, not {other}; allowed: {calls[kind]}\("):
                getattr(opened, call)(argument)


def test_vectors_and_masks_are_the_models(folders, few):
    paths = photos_of(few)[:6]  # more than a batch
    x = seen(paths)
    vectors = Artefact(folders["embedding"]).embed(paths)
    np.testing.assert_allclose(vectors, expected(x, 0, "embedding"), atol=1e-4)
    masks = Artefact(folders["masks"]).masks(paths)
    assert masks.dtype == np.uint8
    np.testing.assert_array_equal(masks, expected(x, 0, "masks").argmax(1))


# What is shown


def test_pixels_are_counted_by_class():
    logits = np.stack([np.zeros((2, 5)), np.arange(10.0).reshape(2, 5) - 6.5])
    mask = drawn(logits)
    np.testing.assert_array_equal(mask, drawn(logits[1:]))
    for x in (logits, logits[1:]):
        assert pixel_shares(mask, len(x), ("sky", "sea")) == [("sky", 0.7), ("sea", 0.3)]
        assert pixel_shares(mask, len(x), ("sky", "sea")) == shown("masks", x, ("sky", "sea"))
    assert pixel_shares(np.zeros((2, 2), np.uint8), 3, None) == [("class 0", 1.0)]
    with pytest.raises(InputError, match="1 to 255 classes"):
        drawn(np.zeros((256, 1, 1)))


@pytest.mark.parametrize(
    ("kind", "shape", "names", "words"),
    [
        ("classes", (1, 5), ("a",), "1 class names; allowed: 5 names, or none"),
        ("classes", (1, 1), ("a", "b", "c"), "3 class names; allowed: 1 or 2 names, or none"),
        ("masks", (1, 1, 4, 4), ("a",), "allowed: 2 names, or none"),
        ("embedding", (1, 5, 2, 2), None, r"are no embedding; allowed: \[n, channels\]"),
        ("masks", (1, 5), None, r"are no masks; allowed: \[n, classes, h, w\]"),
        ("classes", (1, 0), None, "are no classes"),
    ],
)
def test_outputs_that_are_not_of_their_kind_are_named(kind, shape, names, words):
    with pytest.raises(InputError, match=words):
        check_shape(kind, shape, names)


# The gallery


def test_a_gallery_comes_back_and_only_an_embedding_may_have_one(folders, tmp_path):
    folder = shutil.copytree(folders["embedding"], tmp_path / "a")
    assert Artefact(folder).gallery is None
    vectors = RNG.normal(size=(3, 5))
    write_gallery(folder, ["a.jpg", "b/ü.jpg", "c"], vectors)
    found = Artefact(folder).gallery
    assert found is not None and found.names == ("a.jpg", "b/ü.jpg", "c")
    np.testing.assert_array_equal(found.vectors, vectors.astype(np.float32))
    with pytest.raises(InputError, match="answers with classes; allowed: embedding"):
        write_gallery(folders["classes"], ["a"], vectors[:1])
    for names, held, words in (
        (["a"], vectors, "3 vectors and 1 names"), (["a", "b", ""], vectors, "0 characters"),
        (["a"], np.full((1, 5), np.nan), "all of it finite"), ([], vectors[:0], r"vectors \[0, 5\]"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            write_gallery(folder, names, held)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (None, "cannot read"),
        (b"\x10\0\0\0\0\0\0\0no tensors here!", "cannot read"),
        ({"vectors": np.zeros((2, 5), np.float32)}, r"F32 \[2, 5\]; allowed: F32 \[3, channels\]"),
        ({"vectors": np.zeros((3, 5), np.float64)}, r"F64 \[3, 5\]"),
        ({"vectors": np.zeros(3, np.float32)}, r"vectors \[3\]"),
        ({"others": np.zeros((3, 5), np.float32)}, "one tensor, vectors"),
        ({"vectors": np.full((3, 5), np.inf, np.float32)}, "finite"),
    ],
    ids=["none", "damaged", "rows", "dtype", "rank", "name", "infinite"],
)
def test_a_damaged_gallery_is_one_line(tmp_path, tensors, words):
    if isinstance(tensors, bytes):
        (tmp_path / "gallery.safetensors").write_bytes(tensors)
    elif tensors is not None:
        save_file(tensors, tmp_path / "gallery.safetensors")
    with pytest.raises(InputError, match=words) as refused:
        Gallery.load(tmp_path, ("a", "b", "c"))
    assert "\n" not in str(refused.value)


# foveate run


def test_run_shows_the_nearest_of_the_gallery_beside_the_model(folders, few, tmp_path):
    folder, paths = shutil.copytree(folders["embedding"], tmp_path / "a"), photos_of(few)
    vectors = Artefact(folder).embed(paths)
    names = [f"[bold]\x1b[31m{p.name}" for p in paths]
    write_gallery(folder, names, vectors)
    code, said, _ = ran("run", folder, paths[3], paths[8], "--json")
    rows = json.loads(said)["images"]
    assert code == 0 and json.loads(said)["outputs"] == "embedding"
    assert [row["nearest"][0]["name"] for row in rows] == [names[3], names[8]]
    assert [row["nearest"][0]["cosine"] for row in rows] == pytest.approx([1, 1])
    assert rows[0]["norm"] == pytest.approx(np.linalg.norm(vectors[3]), rel=1e-4)
    cosines = [near["cosine"] for near in rows[0]["nearest"]]
    assert len(cosines) == 5 and cosines == sorted(cosines, reverse=True)
    code, said, _ = ran("run", folder, paths[3])
    assert code == 0 and "1.000  [bold]\\x1b[31m3.png" in said and "\x1b[31m" not in said


def test_run_takes_a_folder_of_ones_own_and_without_any_says_what_to_give(folders, few):
    photo = photos_of(few)[7]
    code, said, _ = ran("run", folders["embedding"], photo, "--gallery", few, "--json")
    nearest_one = json.loads(said)["images"][0]["nearest"][0]
    assert code == 0 and nearest_one["name"] == f"{photo.parent.name}/{photo.name}"
    assert nearest_one["cosine"] == pytest.approx(1)
    code, said, told = ran("run", folders["embedding"], photo)
    assert code == 0 and "a vector of length" in said and "--gallery DIR" in told


def test_run_shows_the_shares_of_pixels_and_writes_masks(folders, few, tmp_path):
    paths = [photos_of(few)[0], photos_of(few)[6]]
    code, said, _ = ran("run", folders["masks"], *paths, "--out", tmp_path / "masks", "--json")
    assert code == 0
    opened = Artefact(folders["masks"])
    import torch

    for path, row in zip(paths, json.loads(said)["images"], strict=True):
        mask = segment(lambda x: torch.from_numpy(opened(x.numpy())), read_image(path), PREPROCESS)
        image = Image.open(row["mask"])
        assert image.size == read_image(path).size and image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), mask)
        counts = {CLASSES[i]: n / mask.size for i, n in enumerate(np.bincount(mask.ravel())) if n}
        assert {s["class"]: s["share"] for s in row["shares"]} == pytest.approx(counts)
    code, said, _ = ran("run", folders["masks"], paths[0])
    assert code == 0 and "%" in said


def test_run_refuses_options_of_another_kind(folders, few, tmp_path):
    photo = photos_of(few)[0]
    for kind, option, words in (
        ("classes", "--gallery", "--gallery"), ("masks", "--gallery", "answers with masks; allowed: with embedding"),
        ("embedding", "--out", "answers with embedding; allowed: with masks"),
    ):  # fmt: skip
        code, said, line = ran("run", folders[kind], photo, option, few if option == "--gallery" else tmp_path / "x")
        assert code != 0 and said == "" and words in line, line
    assert not (tmp_path / "x").exists()


def test_run_of_one_logit_says_yes(folders, few):
    photo = photos_of(few)[0]
    code, said, _ = ran("run", folders["yes"], photo, "--json")
    logit = expected(seen([photo]), 0, width=1)[0, 0]
    assert code == 0 and json.loads(said)["images"][0]["top"] == [["yes", pytest.approx(1 / (1 + np.exp(-logit)))]]


# foveate evaluate


def test_vectors_are_judged_by_the_folders_whatever_these_are_called(folders, few):
    code, said, _ = ran("evaluate", folders["embedding"], "--data", few, "--json")
    told = json.loads(said)
    assert code == 0 and (told["name"], told["value"], told["n"]) == ("knn", 100.0, 12)
    assert told["low"] < 100 == told["high"]


def test_vectors_without_labels_are_an_error(folders, few):
    with pytest.raises(InputError, match="has no labels"):
        evaluate(folders["embedding"], data=few / "red things")


def test_one_logit_is_right_on_its_side_of_zero(folders, few, tmp_path):
    found = evaluate(folders["yes"], data=few)
    paths = photos_of(few)
    logits = expected(seen(paths), 0, width=1)[:, 0]
    truth = np.array([p.parent.name == "red things" for p in paths])
    assert found.value == pytest.approx(100 * ((logits > 0) == truth).mean())
    named = make_folder(tmp_path / "named", width=1, classes=("red things", "blue things"))
    assert evaluate(named, data=few).value == pytest.approx(100 - found.value)


@pytest.mark.parametrize(
    ("kind", "task"), [("classes", "segmentation"), ("embedding", "classification"), ("masks", "embedding")]
)
def test_a_task_that_is_not_the_models_is_named(folders, few, kind, task):
    right = {"classes": "classification", "embedding": "embedding", "masks": "segmentation"}[kind]
    with pytest.raises(InputError, match=rf"--task {task}: .* answers with {kind}; allowed: --task {right}"):
        evaluate(folders[kind], data=few, task=task)
    if kind != "masks":
        with pytest.raises(InputError, match=f"--page x.html: .* answers with {kind}; allowed: with masks"):
            evaluate(folders[kind], data=few, page="x.html")


# foveate export


def test_an_export_says_what_the_model_answers_with_and_takes_the_gallery_along(few, tmp_path):
    import foveate
    from foveate.commands.export import export_plan

    small = {"num_classes": 0, "depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 32, "patch_size": 16}
    loaded = foveate.load("vit_tiny_patch16_224", random_weights=True, **small)
    plan = foveate.Plan(model=loaded.ref, target=foveate.Target(runtime="eager", threads=1))
    first = foveate.export(loaded.model, plan, tmp_path / "first", preprocess=loaded.preprocess)
    opened = Artefact(first)
    assert opened.outputs == "embedding"
    paths = photos_of(few)[:2]
    write_gallery(first, [p.name for p in paths], opened.embed(paths))
    second = Artefact(export_plan(first, batch=2, out=tmp_path / "second"))
    assert second.gallery is not None and second.gallery.names == ("0.png", "1.png")
    np.testing.assert_allclose(second.embed(paths), second.gallery.vectors, atol=1e-4)


def test_an_export_keeps_the_names_of_the_classes_that_were_given(tmp_path):
    import foveate
    from foveate.commands.export import export_plan

    small = {"num_classes": 3, "depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 32, "patch_size": 16}
    loaded = foveate.load("vit_tiny_patch16_224", random_weights=True, classes=("cat", "dog", "owl"), **small)
    plan = foveate.Plan(model=loaded.ref, target=foveate.Target(runtime="eager", threads=1))
    first = foveate.export(loaded.model, plan, tmp_path / "first", preprocess=loaded.preprocess, classes=loaded.classes)
    assert Artefact(export_plan(first, batch=2, out=tmp_path / "second")).classes == ("cat", "dog", "owl")


def test_unnamed_classes_are_the_class_folders_in_sorted_order_for_a_built_model_as_well(few, tmp_path):
    import foveate

    small = {"num_classes": 2, "depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 32, "patch_size": 16}
    loaded = foveate.load("vit_tiny_patch16_224", random_weights=True, **small)
    plan = foveate.Plan(model=loaded.ref, target=foveate.Target(runtime="eager", threads=1))
    folder = foveate.export(loaded.model, plan, tmp_path / "out", preprocess=loaded.preprocess)
    built, given = evaluate(folder, data=few), evaluate(loaded.model, data=few, preprocess=loaded.preprocess)
    assert (built.n, built.value) == (given.n, given.value) and built.n == 12

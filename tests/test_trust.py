"""A folder somebody else made: what it may name, and what is run of it."""

import json
import os
import signal

import pytest
from support.served import make_folder

import foveate
from foveate.artefact import Artefact
from foveate.commands.evaluate import evaluate
from foveate.errors import InputError
from foveate.plans import Plan
from foveate.written import Verdict

SMALL = {"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 32, "patch_size": 16, "num_classes": 2}


def exported(folder, runtime):
    loaded = foveate.load("vit_tiny_patch16_224", random_weights=True, **SMALL)
    plan = Plan(model=loaded.ref, target=foveate.Target(runtime=runtime, threads=1))
    return foveate.export(loaded.model, plan, folder, preprocess=loaded.preprocess)


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """On another machine, as it were: a cache that knows nothing of what was made."""
    return lambda: monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "another"))


def test_a_program_is_opened_where_it_was_made_and_elsewhere_by_trust_alone(tmp_path, elsewhere):
    folder = exported(tmp_path / "out", "eager")
    assert Artefact(folder).folder == folder
    elsewhere()
    with pytest.raises(InputError, match=r"is a program.*not made here.*--trust"):
        Artefact(folder)
    with pytest.raises(InputError, match="is a program"):
        evaluate(folder)
    assert Artefact(folder, trust=True).folder == folder


def test_a_program_that_was_changed_is_another(tmp_path):
    folder = exported(tmp_path / "out", "eager")
    file = folder / json.loads((folder / "model.json").read_text())["file"]
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(InputError, match="is a program"):
        Artefact(folder)


def test_no_name_hides_a_program_behind_one_that_was_made_here(tmp_path):
    folder = exported(tmp_path / "out", "eager")
    card = json.loads((folder / "model.json").read_text())
    made = folder / card["file"]
    for name in (f"{made.stem[:-1]}[{made.stem[-1]}]{made.suffix}", f"*{made.suffix}", f"{made.stem}-{made.suffix}"):
        (folder / name).write_bytes(made.read_bytes() + b"\0")
        (folder / "model.json").write_text(json.dumps(card | {"file": name}))
        with pytest.raises(InputError, match="is a program"):
            Artefact(folder)
        (folder / name).unlink()


def test_a_plan_alone_makes_no_program_of_data(tmp_path):
    """plan.json picks the runtime: data that it calls a program is not run, either."""
    folder = exported(tmp_path / "out", "onnxruntime")
    plan = json.loads((folder / "plan.json").read_text())
    plan["target"]["runtime"] = "eager"
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match="is a program"):
        Artefact(folder)


def test_data_needs_no_trust(tmp_path, elsewhere):
    folder = exported(tmp_path / "out", "onnxruntime")
    elsewhere()
    assert Artefact(folder).folder == folder


@pytest.mark.parametrize("name", ["../outside.onnx", "link.onnx", ".", "", "a\0b", "loop.onnx"])
def test_a_folder_names_files_of_its_own_alone(tmp_path, name):
    folder = exported(tmp_path / "out", "onnxruntime")
    card = json.loads((folder / "model.json").read_text())
    (folder / card["file"]).rename(tmp_path / "outside.onnx")
    (folder / "link.onnx").symlink_to(tmp_path / "outside.onnx")
    (folder / "loop.onnx").symlink_to(folder / "loop.onnx")
    (folder / "model.json").write_text(json.dumps(card | {"file": name}))
    with pytest.raises(
        InputError, match=r"names .* which (is not in it|cannot be looked up)|lacks its model file loop"
    ):
        Artefact(folder)


def test_a_link_within_the_folder_is_followed(tmp_path):
    folder = exported(tmp_path / "out", "onnxruntime")
    card = json.loads((folder / "model.json").read_text())
    (folder / "link.onnx").symlink_to(card["file"])
    (folder / "model.json").write_text(json.dumps(card | {"file": "link.onnx"}))
    assert Artefact(folder).card.file == "link.onnx"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"checkpoint_path": "secret.pth"}, "checkpoint_path is timm's own"),
        ({"pretrained_cfg": "x"}, "pretrained_cfg is timm's own"),
        ({"pretrained_custom_load": True}, "unknown model option 'pretrained_custom_load'; known: "),
        ({"img_sise": 32}, "unknown model option 'img_sise'; did you mean img_size"),
        ({"depth": 100_000}, "depth=100000; allowed: at most 512"),
        ({"img_size": (32, 10**6)}, "img_size=1000000; allowed: at most 8,192"),
        ({"num_classes": 10**9}, "num_classes=1000000000; allowed: at most"),
    ],
)
def test_options_of_a_model_are_known_ones_within_bounds(options, told):
    with pytest.raises(InputError, match=told):
        foveate.load("vit_tiny_patch16_224", random_weights=True, **options)


@pytest.mark.parametrize(
    ("file", "changed", "told"),
    [
        ("plan.json", {"model": {"depth": 100_000}}, "depth"),
        ("plan.json", {"model": {"tokens": 10**9}}, "tokens"),
        ("plan.json", {"target": {"threads": 100_000}}, "threads"),
        ("plan.json", {"target": {"batch": 10**6}}, "batch"),
        ("preprocess.json", {"size": [100_000, 32]}, "size"),
        ("preprocess.json", {"crop_pct": 1e-7}, "crop_pct"),
    ],
)
def test_numbers_that_a_folder_gives_are_bounded(tmp_path, file, changed, told):
    folder = exported(tmp_path / "out", "onnxruntime")
    found = json.loads((folder / file).read_text())
    for key, value in changed.items():
        found[key] = found[key] | value if isinstance(value, dict) else value
    (folder / file).write_text(json.dumps(found))
    with pytest.raises(InputError, match=told):
        Artefact(folder)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_files_that_never_end_are_refused_at_once(tmp_path, kind):
    """Whatever a folder names: a pipe waits for a writer, a device goes on for ever."""
    folder = make_folder(tmp_path / "made")
    (folder / "verdict.json").write_text("{}")
    for name in ("plan.json", "preprocess.json", "frontier.json", "model.json", "verdict.json", "model.onnx"):
        held = (folder / name).read_bytes()
        (folder / name).unlink()
        os.mkfifo(folder / name) if kind == "pipe" else (folder / name).symlink_to("/dev/zero")
        signal.alarm(20)  # would end the test run
        try:
            with pytest.raises(InputError):
                Verdict.load(folder) if name == "verdict.json" else Artefact(folder, threads=1)
        finally:
            signal.alarm(0)
        (folder / name).unlink()
        (folder / name).write_bytes(held)
    Artefact(folder, threads=1)

"""Arguments of the model on the command line: words become values, and what they change is said."""

import json
import signal
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import foveate
from foveate.cli import app
from foveate.cli.options import model_options
from foveate.errors import InputError

NAME = "vit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("False", False), ("7", 7), ("-3", -3), ("0", 0), ("0.5", 0.5), ("1e-6", 1e-6), (".5", 0.5),
        ("avg", "avg"), ("nan", "nan"), ("inf", "inf"), ("1_000", "1_000"), ("a=b", "a=b"),
        ("256,128,64", (256, 128, 64)), ("1,x", "1,x"), ("12345678901234567890", 12345678901234567890.0),
    ],
)  # fmt: skip
def test_values(text, value):
    found = model_options([f"x={text}"])["x"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["img_size"], "--model-option 'img_size'; allowed: NAME=VALUE"),
        (["img_size="], "--model-option 'img_size='; allowed: NAME=VALUE"),
        (["=3"], "--model-option '=3'; allowed: NAME=VALUE"),
        (["img-size=3"], "--model-option 'img-size=3'; allowed: NAME=VALUE"),
        (["a=1", "b=2", "a=3"], "--model-option a is given twice, as 1 and 3; allowed: once"),
        (["seed=1"], "--model-option seed is none of the model"),
        (["weights=x"], "--model-option weights is none of the model"),
        (["scale=1e999"], "--model-option scale=1e999; allowed: finite numbers"),
    ],
)
def test_what_is_no_option_of_the_model(words, message):
    with pytest.raises(InputError, match=message):
        model_options(words)


def test_without_any_nothing_is_passed_on():
    assert model_options(None) == model_options([]) == {}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    made = timm.create_model(NAME, img_size=32, num_classes=10, embed_dim=32, depth=2, num_heads=2)
    save_file(made.state_dict(), path)
    return path


PHOTOS = Path(foveate.__file__).parent / "assets" / "photos"
SMALL = ("embed_dim=32", "depth=2", "num_heads=2")


def run(*args):
    words = [str(a) for a in args]
    for option in SMALL:
        words += ["--model-option", option]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def test_evaluate_takes_a_model_of_another_image_size(weights):
    words = ("evaluate", NAME, "--weights", weights, "--data", PHOTOS, "--images", 20, "--json")
    exact = run(*words, "--model-option", "img_size=32")
    assert exact.exit_code == 0 and "resampled" not in exact.stderr
    other = run(*words, "--model-option", "img_size=48")
    assert "note  " in other.stderr and "resampled from 2 x 2 patches to 3 x 3" in other.stderr
    assert json.loads(exact.stdout)["n"] == json.loads(other.stdout)["n"] == 20


def test_published_settings_of_a_model_without_its_head(weights):
    done = run("compare", NAME, "--weights", weights, "--published", "--json", "--model-option", "num_classes=0")
    assert json.loads(done.stdout)["rows"]
    assert "left out, as the model has no classifier (num_classes=0): head.bias, head.weight" in done.stderr


def test_a_wrong_one_is_one_line_and_exit_2(weights, monkeypatch, capsys):
    from foveate.cli import main

    before = signal.getsignal(signal.SIGINT)
    for options, words in (
        (["--model-option", "depth=twelve"], "cannot build vit_tiny_patch16_224 with depth=twelve"),
        (["--model-option", "checkpoint_path=/etc/passwd"], "checkpoint_path is timm's own"),
        (["--outputs", "masks"], "outputs is 'masks', and this VisionTransformer has 1000 values"),
    ):
        monkeypatch.setattr(sys, "argv", ["foveate", "evaluate", NAME, "--random-weights", *options])
        with pytest.raises(SystemExit) as e:
            main()
        signal.signal(signal.SIGINT, before)
        said = capsys.readouterr()
        assert e.value.code == 2 and said.out == "" and said.err.count("error") == 1 and words in said.err

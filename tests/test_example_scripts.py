"""The examples run as they stand."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.served import CLASSES, REF, make_folder, running

EXAMPLES = Path(__file__).parent.parent / "examples"
QUICK = {"seconds": 20, "images": 40, "runtime": "onnxruntime", "precision": "fp32"}


@pytest.fixture
def photos_folder(tmp_path, photos):
    """Eight copies of five photographs, a folder each, as classes."""
    for i, photo in enumerate(photos):
        for j in range(8):
            (tmp_path / "photos" / f"class{i}").mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, tmp_path / "photos" / f"class{i}" / f"{j}.jpg")
    return tmp_path / "photos"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_every_example_says_how_to_run_it_and_can_be_imported(path):
    found = runpy.run_path(str(path), run_name="read")
    assert f"python examples/{path.name}" in found["__doc__"]


def test_serving_is_asked_with_the_standard_library(tmp_path, photos):
    ask = runpy.run_path(str(EXAMPLES / "serving.py"))["ask"]
    with running(make_folder(tmp_path / "model"), tmp_path / "log") as server:
        answer = ask(server.url, REF.name, photos[0])
    assert len(answer) == 3 and all(text.split(":")[2] in CLASSES for text in answer)


@pytest.mark.slow
def test_a_method_of_ones_own_is_compared_with_tome(tmp_path):
    done = subprocess.run([sys.executable, EXAMPLES / "own_method.py"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "longest: " in done.stdout and "tome: " in done.stdout


@pytest.mark.slow
def test_a_checkpoint_is_loaded_and_fitted(tmp_path, photos_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    averaged = {f"module.{k}": v for k, v in model.state_dict().items()}
    torch.save({"state_dict": averaged, "state_dict_ema": averaged, "epoch": 3}, tmp_path / "checkpoint.pth")
    main = runpy.run_path(str(EXAMPLES / "checkpoint.py"))["main"]
    main(tmp_path / "checkpoint.pth", "vit_tiny_patch16_224", photos_folder, **QUICK)
    assert (tmp_path / "fitted" / "report.html").is_file()


@pytest.mark.slow
def test_an_embedding_model_finds_its_own_photograph(tmp_path, photos_folder, photos, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    save_file(model.state_dict(), tmp_path / "tiny.safetensors")
    main = runpy.run_path(str(EXAMPLES / "embedding.py"))["main"]
    main(tmp_path / "tiny.safetensors", photos_folder, photos[0], **QUICK)
    cosine, name = capsys.readouterr().out.strip().splitlines()[-5].split(" ", 1)
    assert float(cosine) > 0.99 and name.startswith("class0")

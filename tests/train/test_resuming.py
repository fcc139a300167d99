"""Broken off and resumed, or over several processes: the same losses; and what cannot be resumed is told."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.lessons import losses, recipe, small
from timm.models.vision_transformer import VisionTransformer

from foveate.errors import InputError
from foveate.train import train
from foveate.train.data import order, share

TESTS = str(Path(__file__).parent.parent)
SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from support.lessons import incremental, recipe
from foveate.train import Incremental, train
steps = 0
def progress(stage, share, text):
    global steps
    steps += 1
    if steps == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
made = recipe({data!r}, model=incremental, task=Incremental(warm=0.2), epochs=3, ema=0.9, augment={{"mixup": 0.4}})
train(made, sys.argv[1], resumed=len(sys.argv) > 3, progress=progress, save_seconds=0.0)
"""


def test_killed_and_resumed_it_ends_with_the_same_losses(colours, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=TESTS, data=str(colours)))
    run = lambda out, steps, *more: subprocess.run(
        [sys.executable, script, tmp_path / out, str(steps), *more], timeout=300
    )
    assert run("whole", 0).returncode == 0
    assert run("broken", 8).returncode == -signal.SIGKILL
    assert run("broken", 0, "resume").returncode == 0
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    a, b = (torch.load(tmp_path / out / "last.pt", weights_only=True)["parts"] for out in ("broken", "whole"))
    assert all(torch.equal(a["model"][k], v) for k, v in b["model"].items())


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(colours, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=TESTS, data=str(colours)).replace(', augment={"mixup": 0.4}', ""))
    assert subprocess.run([sys.executable, script, tmp_path / "one", "0"], timeout=300).returncode == 0
    options = {"num_processes": 2, "num_machines": 1, "mixed_precision": "no", "dynamo_backend": "no"}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu"]
    launch += [word for k, v in options.items() for word in (f"--{k}", str(v))]
    assert subprocess.run([*launch, script, tmp_path / "two", "0"], timeout=300).returncode == 0
    a, b = (np.array([v for _, _, v in losses(tmp_path / run)]) for run in ("one", "two"))
    np.testing.assert_allclose(a, b, rtol=1e-3)


def test_batches_are_the_same_for_any_number_of_processes():
    batches = order(50, 8, seed=3, epoch=2)
    assert len(batches) == 6 and len({i for b in batches for _, i in b}) == 48
    parts = [share(batches, i, 2) for i in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == batches
    assert order(50, 8, seed=3, epoch=1) != batches


class Diverging(VisionTransformer):
    calls = 0

    def forward(self, x):
        type(self).calls += self.training
        return super().forward(x) * (float("nan") if self.training and type(self).calls == 4 else 1.0)


def test_a_loss_that_is_not_finite_stops_it_and_the_checkpoint_is_good(colours, tmp_path):
    Diverging.calls = 0
    made = lambda classes: Diverging(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=classes)
    with pytest.raises(InputError, match=r"not finite at step 4 \(epoch 1\): label nan; .*last.pt is the last good"):
        train(recipe(colours, model=made), tmp_path / "run", save_seconds=0.0)
    content = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert content["position"]["step"] == 3
    assert all(torch.isfinite(v).all() for v in content["parts"]["model"].values())


def test_what_cannot_be_resumed_is_told(colours, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(InputError, match="nothing to resume"):
        train(recipe(colours), out, resumed=True)
    train(recipe(colours, epochs=1), out)
    with pytest.raises(InputError, match="holds a run already"):
        train(recipe(colours, epochs=1), out)
    with pytest.raises(InputError, match=r"is of recipe .*: resume with the recipe it was made with"):
        train(recipe(colours, epochs=1, lr=1e-4), out, resumed=True)

    def wider(classes):
        return VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=classes)

    wider.__qualname__ = small.__qualname__
    with pytest.raises(InputError, match="is of another model"):
        train(recipe(colours, epochs=1, model=wider), out, resumed=True)
    (out / "last.pt").write_bytes((out / "last.pt").read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        train(recipe(colours, epochs=1), out, resumed=True)

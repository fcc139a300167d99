"""Methods, runtimes and adapters of others: in a file, or announced by an installed package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from foveate import plugins
from foveate.errors import InputError

METHOD = '''
from foveate.methods import METHODS, Scorer

@METHODS.register("longest")
class Longest(Scorer):
    """Keeps the patches whose tokens are longest."""
    def score(self, tokens, signals):
        return tokens.x[:, tokens.prefix :].norm(dim=-1)
'''
RUNTIME = '''
from foveate.runtimes import RUNTIMES
from foveate.runtimes.eager import Eager

@RUNTIMES.register("mine")
class Mine(Eager):
    """Eager under another name."""
'''
ADAPTER = """
import timm
from foveate.adapters import ADAPTERS
from foveate.adapters.timm_vit import TimmViT

class Mine(timm.models.vision_transformer.VisionTransformer):
    def forward_head(self, x, pre_logits=False):
        return super().forward_head(x, pre_logits)

ADAPTERS[f"{__name__}.Mine"] = TimmViT
"""


def run(code, plugin=None, path=None):
    env = {k: v for k, v in os.environ.items() if k != plugins.VARIABLE}
    env |= {plugins.VARIABLE: str(plugin)} if plugin else {}
    env["PYTHONPATH"] = os.pathsep.join([*([str(path)] if path else []), *sys.path])
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


@pytest.fixture
def file(tmp_path):
    def write(text, name="plugin.py"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_a_file_registers_a_method_that_obeys_its_schedule(file):
    code = """
import timm, torch
from foveate.adapters import adapt
from foveate.methods import METHODS
from foveate.plans import Step
model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=3).eval()
reduced = adapt(model, [Step(block=0, method="longest", tokens=9)])
print(METHODS["longest"].__name__, reduced.schedule.after, reduced(torch.randn(1, 3, 64, 64)).shape)
"""
    done = run(code, file(METHOD))
    assert done.stdout.strip() == "Longest (9, 9) torch.Size([1, 3])", done.stderr


def test_a_runtime_of_a_file_works_in_its_own_process(file, tmp_path):
    code = f"""
import numpy as np, torch
from pathlib import Path
from foveate.runtimes import RUNTIMES, Worker
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
path = RUNTIMES["mine"].build(model, Path({str(tmp_path)!r}) / "built", shape=(1, 3, 2, 2), precision="fp32")
with Worker("mine", threads=1) as worker:
    worker.load("k", path, precision="fp32", shape=(1, 3, 2, 2))
    x = np.ones((1, 3, 2, 2), np.float32)
    print(np.allclose(worker.run("k", x, 1), model(torch.from_numpy(x)).detach().numpy(), atol=1e-5))
"""
    done = run(code, file(RUNTIME))
    assert done.stdout.strip() == "True", done.stderr


def test_an_adapter_of_a_file_is_asked(file):
    plugin = file(ADAPTER)
    code = """
import sys
from foveate import plugins
import foveate.adapters as a
[module] = [m for n, m in sys.modules.items() if n.startswith("_foveate_plugin_")]
print(a.describe(module.Mine(img_size=32, depth=2, num_classes=3)).classes)
"""
    done = run(code, plugin)
    assert done.stdout.strip() == "3", done.stderr


def test_an_installed_package_announces_its_modules(tmp_path):
    """As pip leaves it: a module, and its metadata beside it."""
    (tmp_path / "their_method.py").write_text(METHOD)
    (tmp_path / "their_broken.py").write_text("raise RuntimeError('not today')")
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[foveate.methods]\nlongest = their_method\nbroken = their_broken\n")
    done = run("from foveate.methods import METHODS; print('longest' in METHODS, 'tome' in METHODS)", path=tmp_path)
    assert done.stdout.split() == ["True", "True"]
    assert "plugin broken (their_broken) is left out: RuntimeError: not today" in done.stderr
    done = run("from foveate.fitting.request import method_names; print('longest' in method_names())", path=tmp_path)
    assert done.stdout.strip() == "True"


def test_what_is_no_plugin_is_told_in_a_line(file, monkeypatch):
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    with pytest.raises(InputError, match="no such file"):
        plugins.add("none.py")
    with pytest.raises(InputError, match=r"cannot be imported: ZeroDivisionError"):
        plugins.run(file("1 / 0"))
    with pytest.raises(InputError, match=r"cannot be imported: SyntaxError"):
        plugins.run(file("def", "other.py"))


def test_the_command_line_lists_what_a_file_brings(file):
    command = [sys.executable, "-m", "foveate", "list", "methods", "--plugin", str(file(METHOD))]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert "longest" in done.stdout, done.stderr
    assert Path(plugins.__file__).exists()

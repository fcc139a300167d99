"""Examples in docstrings run: the package's own, and every `>>>`."""

import doctest
import shutil
import textwrap
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import foveate
from foveate.planners import LatencyTable
from foveate.planners.table import Curve

PACKAGE = Path(foveate.__file__).parent


def modules():
    for file in PACKAGE.rglob("*.py"):
        if ">>>" in file.read_text(encoding="utf-8"):
            yield ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)


@pytest.mark.parametrize("name", sorted(modules()))
def test_examples_answer_as_they_say(name):
    found = doctest.testmod(import_module(name))
    assert found.attempted > 0 and found.failed == 0


def test_the_packages_docstring_runs(monkeypatch, tmp_path, photos):
    """But for the minute that measuring takes, and ONNX's building, which are tested elsewhere."""
    counts = [24, 64, 128, 197]
    curve = lambda per_token: Curve(tokens=counts, ms=[0.1 + per_token * n for n in counts])
    table = LatencyTable(fixed_ms=1.0, block=curve(0.01), attention=curve(0.004))
    plan = foveate.plan
    monkeypatch.setattr(foveate, "profile", lambda *args, **options: SimpleNamespace(table=table), raising=False)
    monkeypatch.setattr(foveate, "plan", lambda *args: plan(*args, budget_seconds=4), raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(photos[0], "photo.jpg")
    assert foveate.__doc__ is not None
    code = foveate.__doc__.split("run it.\n", 1)[1]
    code = code.split("\n\nImporting this package")[0].replace('"openvino"', '"eager"')
    exec(compile(textwrap.dedent(code), "foveate.__doc__", "exec"), {})

"""The README's code runs, and its commands exist."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import foveate
from foveate.planners import LatencyTable
from foveate.planners.table import Curve

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = [
    line.split("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()
]


@pytest.fixture
def known_profile(monkeypatch):
    """Measuring takes a minute and is tested elsewhere: here latency is known, and the file is built without ONNX."""
    counts = [24, 64, 128, 197]
    curve = lambda per_token: Curve(tokens=counts, ms=[0.1 + per_token * n for n in counts])
    table = LatencyTable(fixed_ms=1.0, block=curve(0.01), attention=curve(0.004))
    monkeypatch.setattr(foveate, "profile", lambda *args, **options: SimpleNamespace(table=table), raising=False)
    monkeypatch.setitem(globals(), "PYTHON", [block.replace('"onnxruntime"', '"eager"') for block in PYTHON])


@pytest.mark.usefixtures("known_profile")
def test_the_python_blocks_run_in_order(tmp_path, monkeypatch):
    run_blocks(tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_python_blocks_run_in_order_as_they_stand(tmp_path, monkeypatch):
    run_blocks(tmp_path, monkeypatch)


def run_blocks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    assert len(PYTHON) >= 4
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), scope)
    assert (tmp_path / "out" / "plan.json").exists()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("foveate")])
def test_every_command_and_option_exists(command):
    from foveate.cli import app

    _, name, *rest = shlex.split(command)
    done = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.output)
    for option in (w for w in rest if w.startswith("--")):
        assert option in text


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_every_make_target_exists(command):
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    assert re.search(rf"^{command.split()[1]}:", makefile, re.M)

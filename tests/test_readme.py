"""The README's code runs, and its commands exist."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = [
    line.split("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()
]


def test_the_python_blocks_run_in_order(tmp_path, monkeypatch):
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

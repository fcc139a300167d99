"""CONTRIBUTING, followed to the letter: a method is one file and one word."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

NORM = '''"""Norm: keep the patches of largest norm. A stranger's first method."""

from typing import final

from torch import Tensor

from foveate.methods._base import METHODS, Scorer
from foveate.tokens import Signals, Tokens


@final
@METHODS.register("norm")
class Norm(Scorer):
    published = False

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        return tokens.x[:, tokens.prefix :].float().norm(dim=-1)
'''


@pytest.mark.slow
def test_a_new_method_is_one_file_and_one_word(tmp_path):
    for part in ("foveate", "tests", "pyproject.toml"):
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, tmp_path / part)
    (tmp_path / "foveate" / "methods" / "norm.py").write_text(NORM)
    init = tmp_path / "foveate" / "methods" / "__init__.py"
    text, count = re.subn(
        r"(from foveate\.methods import (?:\(\s*(?:# noqa[^\n]*\n)?)?\s*)", r"\1norm, ", init.read_text(), count=1
    )
    assert count == 1
    init.write_text(text)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}

    listed = subprocess.run(
        [sys.executable, "-m", "foveate", "list", "methods", "--json"], capture_output=True, text=True, env=env,
        cwd=tmp_path,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    assert "norm" in {row["name"] for row in json.loads(listed.stdout)["methods"]}

    laws = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/test_methods.py", "tests/test_adapters.py", "-k", "norm"],
        capture_output=True, text=True, env=env, cwd=tmp_path,
    )  # fmt: skip
    assert laws.returncode == 0, laws.stdout[-2000:]
    passed = re.search(r"(\d+) passed", laws.stdout)
    assert passed is not None
    assert int(passed[1]) >= 15, laws.stdout[-500:]

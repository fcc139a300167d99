"""The docs hold the figures of the committed results, and no others."""

import re
from pathlib import Path

import pytest

from benchmarks.table import DOCS, README, RELIABILITY, RESULTS, readme, reliable, render


def test_the_benchmark_page_is_generated_from_the_committed_results():
    assert list(RESULTS.glob("*.json")), "no results are committed"
    assert DOCS.read_text(encoding="utf-8") == render(), "run: python -m benchmarks.table"
    assert README.read_text(encoding="utf-8") == readme(), "run: python -m benchmarks.table"
    assert RELIABILITY.read_text(encoding="utf-8") == reliable(), "run: python -m benchmarks.table"


def test_no_machine_path_or_address_is_committed_with_the_results():
    for path in [DOCS, *RESULTS.glob("*.json")]:
        text = path.read_text(encoding="utf-8")
        assert str(Path(__file__).parent.parent.parent) + "/" not in text, path
        assert "://" not in text, path


PAGES = [p for p in sorted(DOCS.parent.glob("*.md")) if "```python" in p.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_python_blocks_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        exec(compile(block, page.name, "exec"), scope)

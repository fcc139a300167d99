"""The docs hold the figures of the committed results, and no others."""

from pathlib import Path

from benchmarks.table import DOCS, RESULTS, render


def test_the_benchmark_page_is_generated_from_the_committed_results():
    assert list(RESULTS.glob("*.json")), "no results are committed"
    assert DOCS.read_text(encoding="utf-8") == render(), "run: python -m benchmarks.table"


def test_no_machine_path_or_address_is_committed_with_the_results():
    for path in [DOCS, *RESULTS.glob("*.json")]:
        text = path.read_text(encoding="utf-8")
        assert str(Path(__file__).parent.parent.parent) + "/" not in text, path
        assert "://" not in text, path

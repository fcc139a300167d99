"""Pages for people, made from files that foveate wrote and from nothing else: no model is loaded or run here."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foveate.result import Result


def write_report(folder: str | Path) -> Path:
    """Write `report.html` into a folder that `foveate fit` wrote; returns its path. See `foveate.report.page`."""
    from foveate.report.page import write_report as write

    return write(folder)


def write_comparison(results: "Iterable[Result]", path: str | Path, *, title: str = "Methods compared") -> Path:
    """Write what `foveate compare` measured as one page; returns its path. See `foveate.report.compare`."""
    from foveate.report.compare import write_comparison as write

    return write(results, path, title=title)


__all__ = ["write_report", "write_comparison"]

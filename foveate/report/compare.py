"""One page about what `foveate compare` measured: every method at every level, as a plot and as a table."""

from collections.abc import Iterable
from pathlib import Path

from foveate.errors import InputError
from foveate.files import write_text
from foveate.report import figures
from foveate.report.tables import origins
from foveate.report.words import NONE, Table, between, fixed, level_text, number, points, ratios
from foveate.result import Result, Tag

COLUMNS = {  # result name: heading
    "macs": "GMAC",
    "latency": "latency, ms",
    "speedup": "speed-up",
    "accuracy": "top-1, %",
    "drop": "points lost",
    "agreement": "same top-1, %",
    "kl": "KL, nats",
}


def write_comparison(results: Iterable[Result], path: str | Path, *, title: str = "Methods compared") -> Path:
    """Write one HTML page; returns its path.

    Args:
        results: named latency, speedup, macs, accuracy, drop, agreement or kl, with tags `method` and `level`.

    Raises:
        InputError: where no result carries both tags, or the file cannot be written.
    """
    from foveate import __version__
    from foveate.report.page import render

    rows = [r for r in results if r.name in COLUMNS and "method" in r.tags and "level" in r.tags]
    if not rows:
        raise InputError(f"nothing to compare: no result named {', '.join(COLUMNS)} has the tags method and level")
    figure = figures.methods(rows)
    page = render(
        "compare.html.j2",
        title=title,
        version=__version__,
        figure=figure,
        figures=[] if figure is None else [figure],
        table=compare_table(rows),
        origin=origins(rows),
        counts=sorted({r.n for r in rows if r.n is not None and r.name in ("accuracy", "agreement", "kl")}),
        levels=sorted({level_text(r.level) for r in rows if r.level is not None and r.name != "speedup"}),
        speed_levels=sorted({level_text(r.level) for r in rows if r.level is not None and r.name == "speedup"}),
    )
    return write_text(path, page)


def compare_table(results: list[Result]) -> Table:
    """Rows by level, then in the order of the results; our planner's rows are marked."""
    names = [n for n in COLUMNS if any(r.name == n for r in results)]
    cells: dict[tuple[str, str], dict[str, Result]] = {}
    for r in results:
        cells.setdefault((level_name(r.tags["level"]), str(r.tags["method"])), {}).setdefault(r.name, r)
    levels = list(dict.fromkeys(level for level, _ in cells))
    table = Table("Every method at every level", ["level", "method", *(COLUMNS[n] for n in names)])
    table.numeric = tuple(range(2, 2 + len(names)))
    for level in levels:
        for (mine, method), found in cells.items():
            if mine != level:
                continue
            if method == "pareto":
                table.marked.add(len(table.rows))
            table.rows.append([level, method, *(_cell(found.get(n)) for n in names)])
    return table


def level_name(level: Tag) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)


def _cell(r: Result | None) -> str:
    """The value, and its interval on a second line."""
    if r is None:
        return NONE
    if r.name in ("accuracy", "agreement", "drop"):
        value, low, high = points(r)
        return _two_lines(fixed(value), between(low, high))
    if r.name == "speedup":
        value, low, high = ratios(r.value, r.low, r.high)
        return _two_lines(value, "" if r.low is None or r.high is None else f"{low} to {high}")
    if r.name == "kl":
        return _two_lines(fixed(r.value, 3), between(r.low, r.high, 3))
    return number(r.value)


def _two_lines(value: str, interval: str) -> str:
    return f"{value}\n{interval}" if interval else value

"""One page about what `foveate compare` measured: every method at every level, as a plot and as a table."""

from collections.abc import Iterable
from pathlib import Path

from foveate.errors import InputError
from foveate.files import write_text
from foveate.report.by_method import by_method
from foveate.report.kinds import DISTANCES, KINDS, PERCENT, Kind, outputs_of
from foveate.report.tables import origins
from foveate.report.words import NONE, Table, bounded, level_text, number, points
from foveate.result import Result, Tag


def columns(kind: Kind) -> dict[str, str]:
    """Result name: heading."""
    return {
        "macs": "GMAC",
        "latency": "latency, ms",
        "speedup": "speed-up",
        kind.score_result: f"{kind.score}, %",
        "drop": "points lost",
        "agreement": kind.agreement_head,
        kind.distance_result: kind.distance_head,
    }


def write_comparison(
    results: Iterable[Result], path: str | Path, *, title: str = "Methods compared", note: str | None = None
) -> Path:
    """Write one HTML page; returns its path.

    Args:
        note: stands under the title, of a comparison that is under way.
        results: named latency, speedup, macs, drop, agreement, or as the kind of output calls its score and distance
            (accuracy, kl ...), with tags `method` and `level`; `outputs` names the kind, classes by default.

    Raises:
        InputError: where no result carries both tags, or the file cannot be written.
    """
    from foveate.report.page import render
    from foveate.version import __version__

    results = list(results)
    kind = KINDS[outputs_of(results)]
    names = columns(kind)
    rows = [r for r in results if r.name in names and "method" in r.tags and "level" in r.tags]
    if not rows:
        raise InputError(f"nothing to compare: no result named {', '.join(names)} has the tags method and level")
    figure = by_method(rows, kind)
    judged = {kind.score_result, "agreement", kind.distance_result}
    page = render(
        "compare.html.j2",
        title=title,
        note=note,
        version=__version__,
        kind=kind,
        figure=figure,
        figures=[] if figure is None else [figure],
        table=compare_table(rows, kind),
        origin=origins(rows),
        counts=sorted({r.n for r in rows if r.n is not None and r.name in judged}),
        levels=sorted({level_text(r.level) for r in rows if r.level is not None and r.name != "speedup"}),
        speed_levels=sorted({level_text(r.level) for r in rows if r.level is not None and r.name == "speedup"}),
    )
    return write_text(path, page)


def compare_table(results: list[Result], kind: Kind) -> Table:
    """Rows by level, then in the order of the results; our planner's rows are marked."""
    heads = columns(kind)
    names = [n for n in heads if any(r.name == n for r in results)]
    cells: dict[tuple[str, str], dict[str, Result]] = {}
    for r in results:
        cells.setdefault((level_name(r.tags["level"]), str(r.tags["method"])), {}).setdefault(r.name, r)
    levels = list(dict.fromkeys(level for level, _ in cells))
    table = Table("Every method at every level", ["level", "method", *(heads[n] for n in names)])
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
    if r.name in PERCENT:
        limits = (0.0,) if r.name == "drop" else (100.0,)
        value, low, high = bounded(*points(r), limits=limits)
    elif r.name == "speedup":
        value, low, high = bounded(r.value, r.low, r.high, 2, limits=(1.0,))
    elif r.name in DISTANCES:
        value, low, high = bounded(r.value, r.low, r.high, 3, limits=(0.0,))
    else:
        return number(r.value)
    return value if r.low is None or r.high is None else f"{value}\n{low} to {high}"

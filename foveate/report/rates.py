"""One page about what `foveate study moe-rates` found: error against sample size, and the fitted slopes."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from foveate.files import read_as, write_text
from foveate.report.by_method import look
from foveate.report.figure import Figure, Key, Trace, View, safe
from foveate.report.words import MINUS, NONE, Table

ERRORS = {
    "function": "distance of the function to the true one",
    "to best": "distance of the function to the best of its kind",
    "voronoi": "Voronoi loss",
    "over-specified": "error of the over-specified expert",
    "exact": "error of the exactly specified expert",
}
PAGE = "report.html"


class Row(BaseModel):
    """A rate as it is written."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=True)

    setting: str
    gate: str
    truth: str
    error: str
    slope: float
    low: float
    high: float
    medians: tuple[float | None, ...]


class Rates(BaseModel):
    """rates.json."""

    model_config = ConfigDict(extra="ignore")

    design: dict[str, Any]
    sizes: tuple[int, ...]
    rates: tuple[Row, ...]


def write_rates(folder: Path) -> Path:
    """Write `report.html` beside `rates.json`; returns its path.

    Raises:
        InputError: no such file, or a damaged one.
    """
    from foveate.report.page import render
    from foveate.version import __version__

    found = read_as(Rates, folder / "rates.json")
    own = [r for r in found.rates if r.gate == r.truth]
    common = [r for r in found.rates if r.error == "function" and ", sparse" not in r.setting and "tanh" in r.setting]
    figures = [
        figure
        for figure in (
            drawn("own", "Each gate on a truth of its own kind", found.sizes, own),
            drawn("common", "Both gates on common truths", found.sizes, common),
        )
        if figure is not None
    ]
    page = render(
        "rates.html.j2", title="Rates of mixtures of experts", version=__version__, figures=figures,
        table=table(found.rates), design=found.design, sizes=found.sizes,
    )  # fmt: skip
    return write_text(folder / PAGE, page)


def drawn(name: str, title: str, sizes: Sequence[int], rows: Sequence[Row]) -> Figure | None:
    """A line a setting, a view an error; None of nothing."""
    order = list(dict.fromkeys(r.setting for r in rows))
    looks = {setting: look(setting, i) for i, setting in enumerate(order)}
    views = []
    for error, y_title in ERRORS.items():
        mine = [r for r in rows if r.error == error]
        if not mine:
            continue
        data = [_line(sizes, r, looks[r.setting].colour, looks[r.setting].mark, y_title) for r in mine]
        layout = {"xaxis": {"type": "log", "title": {"text": "samples"}}, "yaxis": {"type": "log"}}
        keys = [Key(looks[r.setting].mark, r.setting, looks[r.setting].colour) for r in mine]
        views.append(View(error, y_title, data, layout, keys))
    if not views:
        return None
    said = f"Log-log plot of error against samples, {len(order)} settings: {', '.join(order)}."
    return Figure(name=name, title=title, summary=said, views=views)


def _line(sizes: Sequence[int], row: Row, colour: str, mark: str, y_title: str) -> Trace:
    return {
        "type": "scatter", "mode": "lines+markers", "x": list(sizes),
        "y": [m if m is not None and isfinite(m) and m > 0 else None for m in row.medians],
        "text": [safe(f"{row.setting}, slope {row.slope:.2f}")] * len(sizes),
        "line": {"color": colour, "width": 1.4}, "marker": {"color": colour, "size": 6, "symbol": mark},
        "hovertemplate": f"%{{text}}<br>%{{x:,}} samples<br><b>%{{y:.3g}}</b> {y_title}<extra></extra>",
    }  # fmt: skip


def table(rows: Sequence[Row]) -> Table:
    """A row a setting, a column an error: slope, and its interval on a second line."""
    made = Table("Slopes of log error over log samples, with 95 % intervals", ["setting", *ERRORS])
    made.numeric = tuple(range(1, 1 + len(ERRORS)))
    settings = dict[str, dict[str, Row]]()
    for row in rows:
        settings.setdefault(row.setting, {})[row.error] = row
    for setting, mine in settings.items():
        made.rows.append([setting, *(_cell(mine.get(error)) for error in ERRORS)])
    return made


def _cell(row: Row | None) -> str:
    if row is None or not isfinite(row.slope):
        return NONE
    return f"{_signed(row.slope)}\n{_signed(row.low)} to {_signed(row.high)}"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", MINUS)

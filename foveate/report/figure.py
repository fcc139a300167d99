"""Plots as plain Plotly JSON. Colours are names of CSS variables (`--accent`), which the page resolves for its theme.

Plotly reads a little HTML in labels, so text that comes from files goes through `safe`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from math import isfinite
from typing import Any

from foveate.report.words import Table
from foveate.result import Result, Tag

Trace = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """A legend entry, drawn by the template: `mark` is the name of a glyph."""

    mark: str
    text: str
    colour: str = "--accent"


@dataclass
class View:
    """One way to look at a figure; a figure with several gets a row of buttons. `keys` name what this one draws."""

    label: str
    y_title: str
    data: list[Trace]
    layout: dict[str, Any]
    keys: list[Key] = field(default_factory=list)


@dataclass
class Figure:
    name: str  # id in the page
    title: str
    summary: str  # read out in place of the plot
    views: list[View]
    note: str = ""
    table: Table | None = None

    @property
    def keys(self) -> list[Key]:
        """Of all views, in the order of the fullest; the page hides those that the view on show does not draw."""
        return list(dict.fromkeys(k for v in sorted(self.views, key=lambda v: -len(v.keys)) for k in v.keys))

    def payload(self) -> list[dict[str, Any]]:
        return [
            {"label": v.label, "y": v.y_title, "data": v.data, "layout": v.layout, "keys": [k.text for k in v.keys]}
            for v in self.views
        ]


def safe(text: object) -> str:
    return escape(str(text), quote=False)


def as_float(value: Tag) -> float | None:
    """A tag as a finite number; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value)


def error_bars(results: list[Result], scale: Callable[[float], float] = lambda v: v) -> dict[str, Any] | None:
    """Of a list of results; None where none has an interval."""
    if all(r.low is None or r.high is None for r in results):
        return None
    up = [0.0 if r.high is None else scale(r.high) - scale(r.value) for r in results]
    down = [0.0 if r.low is None else scale(r.value) - scale(r.low) for r in results]
    return whiskers(up, down)


def whiskers(up: list[float], down: list[float]) -> dict[str, Any]:
    return {"type": "data", "array": up, "arrayminus": down, "symmetric": False, "thickness": 1, "width": 3}

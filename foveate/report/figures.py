"""Plots as plain Plotly JSON. Colours are names of CSS variables (`--accent`), which the page resolves for its theme.

Plotly reads a little HTML in labels, so text that comes from files goes through `safe`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from math import isfinite
from typing import Any

import numpy as np

from foveate.report.read import Written
from foveate.report.words import NONE, Table, fixed, number, percent
from foveate.result import Result

Trace = dict[str, Any]


@dataclass
class View:
    """One way to look at a figure; a figure with several gets a row of buttons."""

    label: str
    y_title: str
    data: list[Trace]
    layout: dict[str, Any]


@dataclass(frozen=True)
class Key:
    """A legend entry, drawn by the template: `mark` is the name of a glyph."""

    mark: str
    text: str
    colour: str = "--accent"


@dataclass
class Figure:
    name: str  # id in the page
    title: str
    summary: str  # read out in place of the plot
    views: list[View]
    keys: list[Key] = field(default_factory=list)
    note: str = ""
    table: Table | None = None

    def payload(self) -> list[dict[str, Any]]:
        return [{"label": v.label, "y": v.y_title, "data": v.data, "layout": v.layout} for v in self.views]


def safe(text: object) -> str:
    return escape(str(text), quote=False)


def bars(results: list[Result], scale: Callable[[float], float] = lambda v: v) -> dict[str, Any] | None:
    """Plotly error bars of a list of results; None where none has an interval."""
    if all(r.low is None or r.high is None for r in results):
        return None
    up = [0.0 if r.high is None else scale(r.high) - scale(r.value) for r in results]
    down = [0.0 if r.low is None else scale(r.value) - scale(r.low) for r in results]
    return {"type": "data", "array": up, "arrayminus": down, "symmetric": False, "thickness": 1, "width": 3}


def spread(group: list[Result], loss: "Loss") -> dict[str, Any] | None:
    """Error bars of candidates that carry an interval as tags (`kl_low`, `kl_high`)."""
    ends = [(_tag(r, loss.tag), _tag(r, f"{loss.tag}_low"), _tag(r, f"{loss.tag}_high")) for r in group]
    if not any(v is not None and a is not None and b is not None for v, a, b in ends) or len(group) > 12:
        return None
    known = [(v, v if a is None else a, v if b is None else b) for v, a, b in ends if v is not None]
    return {
        "type": "data", "symmetric": False, "thickness": 1, "width": 3,
        "array": [loss.scale * (b - v) for v, _, b in known],
        "arrayminus": [loss.scale * (v - a) for v, a, _ in known],
    }  # fmt: skip


def curve(written: Written) -> Figure | None:
    """Latency against token count, the counts of the plan marked on it."""
    plan = written.plan
    rows = [r for r in written.find("curve") if isinstance(r.tags.get("tokens"), int) and isfinite(r.value)]
    here = [r for r in rows if r.tags.get("runtime") in (None, plan.target.runtime)]
    here = [r for r in here if r.tags.get("precision") in (None, plan.target.precision)] or rows
    if not here:
        return None
    counts = sorted({plan.model.tokens, *(s.tokens for s in plan.steps)}, reverse=True)
    views, table = [], Table("Measured points of the curve", ["what", "tokens", "latency, ms", "n"], numeric=(1, 2, 3))
    names = {"block": "one block", "whole": "whole model"}
    kinds = sorted({str(r.tags.get("kind", "whole")) for r in here}, key=lambda k: (k != "whole", k))
    for kind in kinds:
        dots = sorted((r for r in here if str(r.tags.get("kind", "whole")) == kind), key=_tokens)
        x, y = [_tokens(r) for r in dots], [r.value for r in dots]
        marks = [n for n in counts if x[0] <= n <= x[-1]]
        at = np.interp(marks, x, y) if marks else np.array([])
        told = ["measured" if n in x else "between two measured counts" for n in marks]
        data: list[Trace] = [
            {
                "type": "scatter", "mode": "lines+markers", "x": x, "y": y, "error_y": bars(dots),
                "line": {"color": "--trace", "width": 1.5}, "marker": {"color": "--trace", "size": 4},
                "hovertemplate": "%{x} tokens<br><b>%{y:.4g} ms</b><extra></extra>",
            },
            {
                "type": "scatter", "mode": "markers+text", "x": marks, "y": at.tolist(), "customdata": told,
                "text": [str(n) for n in marks], "textposition": "top left", "cliponaxis": False,
                "textfont": {"color": "--accent", "size": 14},
                "marker": {"color": "--accent", "size": 11, "line": {"color": "--paper", "width": 2}},
                "hovertemplate": "%{x} tokens, chosen<br><b>%{y:.4g} ms</b>, %{customdata}<extra></extra>",
            },
        ]  # fmt: skip
        drops = [
            {"type": "line", "x0": n, "x1": n, "y0": 0, "y1": float(v), "layer": "below",
             "line": {"color": "--accent-line", "width": 1}}
            for n, v in zip(marks, at, strict=True)
        ]  # fmt: skip
        layout = {
            "xaxis": {"title": {"text": "tokens, class token included"}, "range": [0, x[-1] * 1.04]},
            "yaxis": {"rangemode": "tozero", "range": [0, 1.15 * max(y)]},
            "shapes": drops,
        }
        views.append(View(names.get(kind, kind), f"ms, {names.get(kind, kind)}", data, layout))
        table.rows += [[names.get(kind, kind), str(_tokens(r)), number(r.value), _n(r)] for r in dots]
    chosen = "the counts of the plan: " + ", ".join(map(str, counts))
    return Figure(
        name="curve",
        title="Latency against tokens",
        summary=f"Line plot of {len(here)} measured latencies against token count, with {chosen} marked.",
        views=views,
        keys=[Key("line", "measured", "--trace"), Key("dot", chosen)],
        table=table,
    )


@dataclass(frozen=True)
class Loss:
    """What a candidate can be judged by: its tag, and how the axis is written."""

    tag: str
    label: str
    head: str  # of the table's column
    y_title: str
    scale: float  # from the tag's unit to the axis's
    text: str  # d3 format
    better: str  # "low" or "high"


LOSSES = (
    Loss("drop", "Points lost", "points lost", "points of top-1 lost on labelled photographs", 1, ".1f", "low"),
    Loss("kl", "KL", "KL, nats", "KL to the dense model, nats", 1, ".3g", "low"),
    Loss(
        "agreement", "Same answer", "same top-1, %", "% of photographs with the dense model's top-1", 100, ".1f", "high"
    ),
)


def tried(written: Written) -> Figure | None:
    """Every candidate: what it lost against its latency, the frontier, the dense build and the chosen plan."""
    rows = written.find("candidate")
    losses = [loss for loss in LOSSES if sum(_tag(r, loss.tag) is not None for r in rows) > 0]
    if not rows or not losses:
        return None
    measured = [r for r in rows if r.tags.get("measured")]
    dense = written.first("latency", plan="dense", stage="search") or written.verified("latency", plan="dense")
    views = [_view(written, rows, loss, dense) for loss in losses]
    table = Table(
        "Every plan tried",
        ["plan", "latency, ms", "measured", "predicted, ms", "share of MACs", *(loss.head for loss in losses)],
        numeric=(1, 3, 4, *range(5, 5 + len(losses))),
    )
    order = sorted(rows, key=lambda r: (not r.tags.get("chosen"), not r.tags.get("frontier"), r.value))
    for r in order:
        if r.tags.get("chosen"):
            table.marked.add(len(table.rows))
        cells = [str(r.tags.get("plan", NONE)), number(r.value), "yes" if r.tags.get("measured") else "no"]
        cells += [number(_tag(r, "predicted_ms")), number(_tag(r, "macs_ratio"))]
        for loss in losses:
            value = _tag(r, loss.tag)
            places = 3 if loss.tag == "kl" else 1
            cells.append(fixed(None if value is None else value * loss.scale, places))
        table.rows.append(cells)
    errors = [abs(p / r.value - 1) for r in measured if (p := _tag(r, "predicted_ms")) is not None and r.value > 0]
    note = ""
    if errors:
        note = (
            f"Of {len(rows):,} plans, {len(measured):,} were built and timed; the cost model's predictions for "
            f"{len(errors):,} of these were off by {fixed(100 * float(np.median(errors)))} % at the median and "
            f"{fixed(100 * max(errors))} % at worst."
        )
    keys = [
        Key("dot", "chosen"), Key("diamond", "chosen, final check"), Key("line", "frontier"),
        Key("dot", "built and timed", "--trace"), Key("ring", "latency predicted", "--trace"),
        Key("dash", "dense", "--soft"),
    ]  # fmt: skip
    present = {
        "chosen": any(r.tags.get("chosen") for r in rows),
        "chosen, final check": any(t.get("name") == "check" for v in views for t in v.data),
        "frontier": True,
        "built and timed": bool(measured),
        "latency predicted": len(measured) < len(rows),
        "dense": dense is not None,
    }
    return Figure(
        name="tried",
        title="What every plan tried costs",
        summary=f"Scatter plot of {len(rows)} plans, loss against latency, with the frontier drawn.",
        views=views,
        keys=[k for k in keys if present[k.text]],
        note=note,
        table=table,
    )


def _view(written: Written, rows: list[Result], loss: Loss, dense: Result | None) -> View:
    def height(r: Result) -> float:
        return float(_tag(r, loss.tag) or 0.0) * loss.scale

    rows = [r for r in rows if _tag(r, loss.tag) is not None]
    unit = {"drop": " points lost", "kl": " nats", "agreement": " % same top-1"}[loss.tag]
    hover = f"%{{text}}<br><b>%{{x:.4g}} ms</b>, %{{y:{loss.text}}}{unit}<extra></extra>"

    def dots(group: list[Result], marker: dict[str, Any]) -> Trace:
        return {
            "type": "scatter", "mode": "markers", "x": [r.value for r in group], "y": [height(r) for r in group],
            "text": [_lines(r) for r in group], "error_x": bars(group), "error_y": spread(group, loss),
            "marker": marker, "hovertemplate": hover,
        }  # fmt: skip

    plain = [r for r in rows if not r.tags.get("chosen")]
    edge = frontier([(r.value, height(r)) for r in rows], loss.better)
    data = [
        dots(
            [r for r in plain if not r.tags.get("measured")],
            {"color": "rgba(0,0,0,0)", "size": 6, "line": {"color": "--trace-soft", "width": 1.2}},
        ),
        dots([r for r in plain if r.tags.get("measured")], {"color": "--trace", "size": 8}),
        {
            "type": "scatter", "mode": "lines", "x": [x for x, _ in edge], "y": [y for _, y in edge],
            "line": {"color": "--accent", "width": 1.5, "shape": "hv"}, "hoverinfo": "skip",
        },
        dots(
            [r for r in rows if r.tags.get("chosen")],
            {"color": "--accent", "size": 13, "line": {"color": "--paper", "width": 2}},
        ),
    ]  # fmt: skip
    data = [t for t in data if t["x"]]
    x = [r.value for r in rows]
    y = [height(r) for r in rows]
    check = written.loss(loss.tag, plan="chosen")
    verified = written.first("latency", plan="chosen", stage="verify")
    if check is not None and verified is not None:
        value = check.value if loss.tag == "kl" else percent(check, check.value)
        scale = (lambda v: v) if loss.tag == "kl" else (lambda v: float(percent(check, v) or 0.0))
        split = check.tags.get("split")
        seen = {"unseen": "photographs the planner did not see", "confirm": "held-out photographs"}
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": "check", "x": [verified.value], "y": [value],
                "text": [f"chosen, final check on {safe(seen.get(str(split), 'the photographs of the search'))}"],
                "error_x": bars([verified]), "error_y": bars([check], scale),
                "marker": {"symbol": "diamond-open", "color": "--accent", "size": 12, "line": {"width": 1.8}},
                "hovertemplate": hover,
            }
        )  # fmt: skip
        x.append(verified.value)
        y.append(value or 0.0)
    layout: dict[str, Any] = {"xaxis": {"title": {"text": "latency, ms"}}, "yaxis": {}, "shapes": [], "annotations": []}
    if dense is not None:
        x.append(dense.value)
        layout["shapes"].append(
            {"type": "line", "x0": dense.value, "x1": dense.value, "y0": 0, "y1": 1, "yref": "paper", "layer": "below",
             "line": {"color": "--soft", "width": 1, "dash": "4px,3px"}}
        )  # fmt: skip
        right = dense.value > (min(x) + max(x)) / 2
        layout["annotations"].append(
            {"x": dense.value, "xanchor": "right" if right else "left", "xshift": 4 if right else -4,
             "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False,
             "text": f"dense, {number(dense.value)} ms", "font": {"color": "--soft", "size": 12}}
        )  # fmt: skip
    span = (max(x) - min(x)) or max(x) * 0.1
    layout["xaxis"]["range"] = [min(x) - 0.07 * span, max(x) + 0.07 * span]
    if loss.tag == "kl" and min(y) > 0:
        layout["yaxis"] |= {"type": "log", "dtick": 1, "exponentformat": "none"}
    elif loss.tag == "drop":
        layout["yaxis"] |= {"zeroline": True}
    return View(loss.label, loss.y_title, data, layout)


def frontier(points: list[tuple[float, float]], better: str) -> list[tuple[float, float]]:
    """The points (latency, loss) that no other beats in both, by latency."""
    sign, best, edge = (1 if better == "low" else -1), np.inf, []
    for x, y in sorted(points, key=lambda p: (p[0], sign * p[1])):
        if sign * y < best:
            best = sign * y
            edge.append((x, y))
    return edge


def _lines(r: Result) -> str:
    return safe(r.tags.get("plan", r.tags.get("method", "plan"))).replace(", ", "<br>")


def _tag(r: Result, name: str) -> float | None:
    value = r.tags.get(name)
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def _tokens(r: Result) -> int:
    return int(r.tags["tokens"])  # type: ignore[arg-type]


def _n(r: Result) -> str:
    return NONE if r.n is None else f"{r.n:,}"


def methods(results: list[Result]) -> Figure | None:
    """One line a method: what is lost against the speed-up, or the latency or MACs where that was not measured."""
    axes = {"speedup": "times faster than dense", "latency": "latency, ms", "macs": "GMAC"}
    x_name = next((n for n in axes if any(r.name == n for r in results)), "macs")
    names = [
        ("drop", "Points lost", "points of top-1 lost"),
        ("accuracy", "Accuracy", "% top-1"),
        ("kl", "KL", "KL to the dense model, nats"),
        ("agreement", "Same answer", "% of photographs with the dense model's top-1"),
    ]
    order = list(dict.fromkeys(str(r.tags["method"]) for r in results if "method" in r.tags))
    views: list[View] = []
    for name, label, y_title in names:
        data = []
        for index, method in enumerate(order):
            style = look(method, index)
            pairs = _pairs(results, method, x_name, name)
            if not pairs:
                continue
            ys = [r for _, r in pairs]
            scale = (lambda v: v) if name == "kl" else (lambda v, r=ys[0]: float(percent(r, v) or 0.0))
            lead = method == "pareto"
            data.append(
                {
                    "type": "scatter", "mode": "markers" if method == "dense" else "lines+markers",
                    "x": [a.value for a, _ in pairs], "y": [scale(r.value) for r in ys],
                    "error_y": bars(ys, scale), "text": [safe(f"{method}, {r.tags.get('level', '')}") for r in ys],
                    "line": {"color": style.colour, "width": 2.5 if lead else 1.2},
                    "marker": {"color": style.colour, "size": 10 if lead else 7, "symbol": style.mark},
                    "hovertemplate": f"%{{text}}<br>%{{x:.4g}} {axes[x_name].rsplit(', ')[-1]}<br>"
                    f"<b>%{{y:.4g}}</b> {y_title}<extra></extra>",
                }
            )  # fmt: skip
        if data:
            log = name == "kl" and all(v > 0 for t in data for v in t["y"])
            layout = {"xaxis": {"title": {"text": axes[x_name]}}, "yaxis": {"type": "log"} if log else {}}
            views.append(View(label, y_title, data, layout))
    if not views:
        return None
    return Figure(
        name="methods",
        title="What is kept against what it takes",
        summary=f"Line plot comparing {len(order)} methods: {', '.join(order)}.",
        views=views,
        keys=[Key((k := look(m, i)).mark, m, k.colour) for i, m in enumerate(order)],
    )


@dataclass(frozen=True)
class Look:
    mark: str
    colour: str


MARKS = ("circle", "square", "triangle-up", "triangle-down", "x", "star", "cross", "pentagon")
HUES = 6  # --hue-0 to --hue-5 in the style sheet


def look(method: str, index: int) -> Look:
    """The accent for our planner, ink for dense, a hue and a mark for each of the others."""
    if method == "pareto":
        return Look("circle", "--accent")
    if method == "dense":
        return Look("diamond", "--ink")
    return Look(MARKS[1 + index % (len(MARKS) - 1)], f"--hue-{index % HUES}")


def _pairs(results: list[Result], method: str, x_name: str, y_name: str) -> list[tuple[Result, Result]]:
    """(x, y) results of one method at the same level, by x."""
    mine = [r for r in results if r.tags.get("method") == method and isfinite(r.value)]
    mine.sort(key=lambda r: str(r.tags.get("level")))
    pairs = []
    for _, group in groupby(mine, key=lambda r: str(r.tags.get("level"))):
        found = {r.name: r for r in reversed(list(group))}
        if x_name in found and y_name in found:
            pairs.append((found[x_name], found[y_name]))
    return sorted(pairs, key=lambda p: p[0].value)


__all__ = ["Figure", "Key", "View", "curve", "methods", "tried", "safe"]

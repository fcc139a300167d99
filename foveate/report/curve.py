"""Latency against token count, the counts of the plan marked on it."""

from math import isfinite

import numpy as np

from foveate.report.figure import Figure, Key, Trace, View, error_bars
from foveate.report.read import Written
from foveate.report.words import NONE, Table, number
from foveate.result import Result


def curve(written: Written) -> Figure | None:
    """Latency against token count, the counts of the plan marked on it."""
    plan = written.plan
    rows = [r for r in written.find("curve") if isinstance(r.tags.get("tokens"), int) and isfinite(r.value)]
    here = [r for r in rows if r.tags.get("runtime") in (None, plan.target.runtime)]
    here = [r for r in here if r.tags.get("precision") in (None, plan.target.precision)] or rows
    if not here:
        return None
    counts = sorted({plan.model.tokens, *(s.tokens for s in plan.steps)}, reverse=True)
    chosen = "the counts of the plan: " + ", ".join(map(str, counts))
    keys = [Key("line", "measured", "--trace"), Key("dot", chosen)]
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
                "type": "scatter", "mode": "lines+markers", "x": x, "y": y, "error_y": error_bars(dots),
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
        views.append(
            View(names.get(kind, kind), f"ms, {names.get(kind, kind)}", data, layout, keys if marks else keys[:1])
        )
        table.rows += [[names.get(kind, kind), str(_tokens(r)), number(r.value), _n(r)] for r in dots]
    return Figure(
        name="curve",
        title="Latency against tokens",
        summary=f"Line plot of {len(here)} measured latencies against token count, with {chosen} marked.",
        views=views,
        table=table,
    )


def _tokens(r: Result) -> int:
    return int(r.tags["tokens"])  # type: ignore[arg-type]


def _n(r: Result) -> str:
    return NONE if r.n is None else f"{r.n:,}"

"""Every plan tried: what it lost against its latency."""

from typing import Any

import numpy as np

from foveate.report.figure import Figure, Key, Trace, View, as_float, error_bars, safe, whiskers
from foveate.report.kinds import DISTANCES
from foveate.report.losses import Loss, losses
from foveate.report.read import Written
from foveate.report.words import NONE, Table, fixed, number
from foveate.result import Result

CHECKED = {"unseen": "photographs the planner did not see", "confirm": "held-out photographs"}


def tried(written: Written) -> Figure | None:
    """Every candidate: what it lost against its latency, the frontier, the dense build and the chosen plan."""
    rows = written.find("candidate")
    known = [loss for loss in losses(written.kind) if any(loss.of(r) is not None for r in rows)]
    if not known:
        return None
    dense = written.first("latency", plan="dense", stage="search") or written.verified("latency", plan="dense")
    return Figure(
        name="tried",
        title="What every plan tried costs",
        summary=f"Scatter plot of {len(rows)} plans, loss against latency, with the frontier drawn.",
        views=[_view(written, rows, loss, dense) for loss in known],
        note=_note(rows),
        table=_table(rows, known),
    )


def _note(rows: list[Result]) -> str:
    measured = [r for r in rows if r.tags.get("measured") and r.value > 0]
    errors = [abs(p / r.value - 1) for r in measured if (p := as_float(r.tags.get("predicted_ms"))) is not None]
    if not errors:
        return ""
    return (
        f"Of {len(rows):,} plans, {len(measured):,} were built and timed; the cost model's predictions for "
        f"{len(errors):,} of these were off by {fixed(100 * float(np.median(errors)))} % at the median and "
        f"{fixed(100 * max(errors))} % at worst."
    )


def _table(rows: list[Result], known: list[Loss]) -> Table:
    table = Table(
        "Every plan tried",
        ["plan", "latency, ms", "measured", "predicted, ms", "share of MACs", *(loss.head for loss in known)],
        numeric=(1, 3, 4, *range(5, 5 + len(known))),
    )
    for r in sorted(rows, key=lambda r: (not r.tags.get("chosen"), not r.tags.get("frontier"), r.value)):
        if r.tags.get("chosen"):
            table.marked.add(len(table.rows))
        cells = [str(r.tags.get("plan", NONE)), number(r.value), "yes" if r.tags.get("measured") else "no"]
        cells += [number(as_float(r.tags.get("predicted_ms"))), number(as_float(r.tags.get("macs_ratio")))]
        table.rows.append([*cells, *(fixed(loss.of(r), loss.places) for loss in known)])
    return table


def _view(written: Written, rows: list[Result], loss: Loss, dense: Result | None) -> View:
    rows = [r for r in rows if loss.of(r) is not None]
    plain = [r for r in rows if not r.tags.get("chosen")]
    edge = frontier([(r.value, loss.of(r) or 0.0) for r in rows], loss.better)
    line = {
        "type": "scatter", "mode": "lines", "x": [x for x, _ in edge], "y": [y for _, y in edge],
        "line": {"color": "--accent", "width": 1.5, "shape": "hv"}, "hoverinfo": "skip",
    }  # fmt: skip
    drawn = [
        (
            Key("ring", "latency predicted", "--trace"),
            _dots(
                [r for r in plain if not r.tags.get("measured")], loss,
                {"color": "rgba(0,0,0,0)", "size": 6, "line": {"color": "--trace-soft", "width": 1.2}},
            ),
        ),
        (
            Key("dot", "built and timed", "--trace"),
            _dots([r for r in plain if r.tags.get("measured")], loss, {"color": "--trace", "size": 8}),
        ),
        (Key("line", "frontier"), line),
        (
            Key("dot", "chosen"),
            _dots(
                [r for r in rows if r.tags.get("chosen")], loss,
                {"color": "--accent", "size": 13, "line": {"color": "--paper", "width": 2}},
            ),
        ),
    ]  # fmt: skip
    if check := _check(written, loss):
        drawn.append((Key("diamond", "chosen, final check"), check))
    drawn = [(key, trace) for key, trace in drawn if trace["x"]]
    x = [v for _, trace in drawn for v in trace["x"]]
    y = [v for _, trace in drawn for v in trace["y"]]
    keys = [key for key, _ in reversed(drawn)]
    layout: dict[str, Any] = {"xaxis": {"title": {"text": "latency, ms"}}, "yaxis": {}}
    if dense is not None:
        x.append(dense.value)
        keys.append(Key("dash", "dense", "--soft"))
        layout |= _dense_line(dense, right=dense.value > (min(x) + max(x)) / 2)
    span = (max(x) - min(x)) or max(x) * 0.1
    layout["xaxis"]["range"] = [min(x) - 0.07 * span, max(x) + 0.07 * span]
    if loss.result in DISTANCES and min(y) > 0:
        layout["yaxis"] |= {"type": "log", "dtick": 1, "exponentformat": "none"}
    elif loss.result == "drop":
        layout["yaxis"] |= {"zeroline": True}
    return View(loss.label, loss.y_title, [trace for _, trace in drawn], layout, keys)


def _dots(group: list[Result], loss: Loss, marker: dict[str, Any]) -> Trace:
    return {
        "type": "scatter", "mode": "markers", "x": [r.value for r in group], "y": [loss.of(r) for r in group],
        "text": [_lines(r) for r in group], "error_x": error_bars(group), "error_y": _intervals(group, loss),
        "marker": marker, "hovertemplate": _hover(loss),
    }  # fmt: skip


def _hover(loss: Loss) -> str:
    form = ".3g" if loss.result in DISTANCES else f".{loss.places}f"
    return f"%{{text}}<br><b>%{{x:.4g}} ms</b>, %{{y:{form}}}{loss.unit}<extra></extra>"


def _intervals(group: list[Result], loss: Loss) -> dict[str, Any] | None:
    """Error bars of candidates that carry an interval as tags, where they are few enough to be told apart."""
    given = [(loss.of(r) or 0.0, loss.ends(r)) for r in group]
    if len(group) > 12 or all(ends is None for _, ends in given):
        return None
    return whiskers(
        [0.0 if ends is None else ends[1] - v for v, ends in given],
        [0.0 if ends is None else v - ends[0] for v, ends in given],
    )


def _check(written: Written, loss: Loss) -> Trace | None:
    """The chosen plan once more, on photographs that no search has seen, at the latency of the proof."""
    check = written.loss(loss.result, plan="chosen")
    verified = written.first("latency", plan="chosen", stage="verify")
    if check is None or verified is None:
        return None
    where = CHECKED.get(str(check.tags.get("split")), "the photographs of the search")
    return {
        "type": "scatter", "mode": "markers", "name": "check", "x": [verified.value],
        "y": [loss.checked(check, check.value)], "text": [f"chosen, final check on {where}"],
        "error_x": error_bars([verified]), "error_y": error_bars([check], lambda v: loss.checked(check, v)),
        "marker": {"symbol": "diamond-open", "color": "--accent", "size": 12, "line": {"width": 1.8}},
        "hovertemplate": _hover(loss),
    }  # fmt: skip


def _dense_line(dense: Result, *, right: bool) -> dict[str, Any]:
    """`right`: its words stand to the left of it, for want of room."""
    ms, when = dense.value, " in the search" if dense.tags.get("stage") == "search" else ""
    line = {
        "type": "line", "x0": ms, "x1": ms, "y0": 0, "y1": 1, "yref": "paper", "layer": "below",
        "line": {"color": "--soft", "width": 1, "dash": "4px,3px"},
    }  # fmt: skip
    words = {
        "x": ms, "xanchor": "right" if right else "left", "xshift": 4 if right else -4, "y": 1, "yref": "paper",
        "yanchor": "bottom", "showarrow": False, "text": f"dense{when}, {number(ms)} ms",
        "font": {"color": "--soft", "size": 12},
    }  # fmt: skip
    return {"shapes": [line], "annotations": [words]}


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

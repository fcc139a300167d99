"""The operating points of an elastic model: quality against latency and energy, and what each does."""

from typing import Any

from foveate.report.figures import Figure, Key, Trace, View, safe
from foveate.report.read import Written
from foveate.report.tables import text
from foveate.report.words import NONE, Table, between, fixed, number
from foveate.result import Result


def knob(written: Written) -> Figure | None:
    """The frontier, and every point of it as a table."""
    rows = sorted(written.find("point"), key=lambda r: -r.value)
    if not rows:
        return None
    figure = (
        "% right on unseen photographs" if rows[0].tags.get("figure") == "top-1" else "% answered as the whole model"
    )
    how, n = text(rows[0].tags.get("energy")), text(rows[0].tags.get("images"))
    table = Table(
        "Operating points",
        ["point", "plan", "latency, ms", "p99, ms", "share of the whole model's", "99 %", figure, "95 %",
         f"energy, mJ ({how})", "GMACs"],
        numeric=(0, 2, 3, 4, 5, 6, 7, 8, 9),
    )  # fmt: skip
    for r in rows:
        t = r.tags
        table.rows.append(
            [
                text(t.get("index")), text(t.get("plan")), number(r.value), number(_float(t, "p99")),
                fixed(_float(t, "share"), 3), between(_float(t, "share_low"), _float(t, "share_high"), 3) or NONE,
                fixed(_float(t, "quality"), 2), between(_float(t, "quality_low"), _float(t, "quality_high"), 2) or NONE,
                number(_float(t, "energy_mj")), number(_float(t, "gmacs")),
            ]
        )  # fmt: skip
    views = [
        _view("Latency", "latency of a call, ms", figure, rows, [r.value for r in rows]),
        _view("Energy", f"energy of an image, mJ ({how})", figure, rows, [_float(r.tags, "energy_mj") for r in rows]),
    ]
    return Figure(
        name="knob",
        title="Operating points of one set of weights",
        summary=f"{len(rows)} operating points, {figure} against latency.",
        views=views,
        keys=[Key("dot", "operating point"), Key("ring", "the whole model")],
        note=f"On {n} photographs that no search has seen. Energy is {how}: {text(rows[0].tags.get('energy_source'))}.",
        table=table,
    )


def _view(label: str, x_title: str, y_title: str, rows: list[Result], x: list[float | None]) -> View:
    y = [_float(r.tags, "quality") or 0.0 for r in rows]
    up = [(_float(r.tags, "quality_high") or v) - v for r, v in zip(rows, y, strict=True)]
    down = [v - (_float(r.tags, "quality_low") or v) for r, v in zip(rows, y, strict=True)]
    bars = {"type": "data", "array": up, "arrayminus": down, "symmetric": False, "thickness": 1, "width": 3}
    unit, others = "ms" if label == "Latency" else "mJ", len(rows) - 1
    data: list[Trace] = [
        {
            "type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip",
            "line": {"color": "--accent", "width": 1.5},
        },
        {
            "type": "scatter", "mode": "markers", "x": x, "y": y, "error_y": bars,
            "text": [safe(text(r.tags.get("plan"))).replace(", ", "<br>") for r in rows],
            "marker": {"color": "--accent", "size": 10, "symbol": ["circle-open", *["circle"] * others]},
            "hovertemplate": f"%{{text}}<br><b>%{{x:.4g}} {unit}</b>, %{{y:.2f}} %<extra></extra>",
        },
    ]  # fmt: skip
    return View(label, y_title, data, {"xaxis": {"title": {"text": x_title}, "rangemode": "tozero"}, "yaxis": {}})


def _float(tags: dict[str, Any], name: str) -> float | None:
    value = tags.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

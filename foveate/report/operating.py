"""The operating points of an elastic model: quality against latency and energy, and what each does."""

from foveate.report.figure import Figure, Key, Trace, View, as_float, safe, whiskers
from foveate.report.read import Written
from foveate.report.words import NONE, Table, between, fixed, number, text
from foveate.result import Result


def operating_points(written: Written) -> Figure | None:
    """The frontier, and every point of it as a table."""
    rows = sorted(written.find("point"), key=lambda r: -r.value)
    if not rows:
        return None
    kind, named = written.kind, str(rows[0].tags.get("figure"))
    if named == "agreement":
        figure = kind.stays
    else:
        figure = "% right on unseen photographs" if named == "top-1" else f"{kind.score} on unseen photographs, %"
    how, n = text(rows[0].tags.get("energy")), text(rows[0].tags.get("images"))
    table = Table(
        "Operating points",
        ["point", "plan", "latency, ms", "p99, ms", "share of the whole model's", "99 %", figure, "95 %",
         f"energy, mJ ({how})", "GMACs"],
        numeric=(0, 2, 3, 4, 5, 6, 7, 8, 9),
    )  # fmt: skip
    for r in rows:
        of = {name: as_float(value) for name, value in r.tags.items()}
        table.rows.append(
            [
                text(r.tags.get("index")), text(r.tags.get("plan")), number(r.value), number(of.get("p99")),
                fixed(of.get("share"), 3), between(of.get("share_low"), of.get("share_high"), 3) or NONE,
                fixed(of.get("quality"), 2), between(of.get("quality_low"), of.get("quality_high"), 2) or NONE,
                number(of.get("energy_mj")), number(of.get("gmacs")),
            ]
        )  # fmt: skip
    energy = [as_float(r.tags.get("energy_mj")) for r in rows]
    views = [
        _view("Latency", "latency of a call, ms", figure, rows, [r.value for r in rows]),
        _view("Energy", f"energy of an image, mJ ({how})", figure, rows, energy),
    ]
    return Figure(
        name="points",
        title="Operating points of one set of weights",
        summary=f"{len(rows)} operating points, {figure} against latency.",
        views=views,
        note=f"On {n} photographs that no search has seen. Energy is {how}: {text(rows[0].tags.get('energy_source'))}.",
        table=table,
    )


def _view(label: str, x_title: str, y_title: str, rows: list[Result], x: list[float | None]) -> View:
    y = [as_float(r.tags.get("quality")) or 0.0 for r in rows]
    ends = [[as_float(r.tags.get(f"quality_{end}")) for end in ("low", "high")] for r in rows]
    down = [0.0 if low is None else v - low for (low, _), v in zip(ends, y, strict=True)]
    up = [0.0 if high is None else high - v for (_, high), v in zip(ends, y, strict=True)]
    unit, others = "ms" if label == "Latency" else "mJ", len(rows) - 1
    data: list[Trace] = [
        {
            "type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip",
            "line": {"color": "--accent", "width": 1.5},
        },
        {
            "type": "scatter", "mode": "markers", "x": x, "y": y, "error_y": whiskers(up, down),
            "text": [safe(text(r.tags.get("plan"))).replace(", ", "<br>") for r in rows],
            "marker": {"color": "--accent", "size": 10, "symbol": ["circle-open", *["circle"] * others]},
            "hovertemplate": f"%{{text}}<br><b>%{{x:.4g}} {unit}</b>, %{{y:.2f}} %<extra></extra>",
        },
    ]  # fmt: skip
    layout = {"xaxis": {"title": {"text": x_title}, "rangemode": "tozero"}, "yaxis": {}}
    keys = [Key("ring", "the whole model"), *([Key("dot", "operating point")] if others else [])]
    return View(label, y_title, data, layout, keys)

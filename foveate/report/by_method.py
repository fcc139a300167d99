"""What every method keeps against what it takes: one line a method."""

from dataclasses import dataclass
from itertools import groupby
from math import isfinite

from foveate.report.figure import Figure, Key, Trace, View, error_bars, safe
from foveate.report.kinds import DISTANCES, Kind
from foveate.report.words import capital, percent
from foveate.result import Result


def by_method(results: list[Result], kind: Kind) -> Figure | None:
    """What is lost against the speed-up, or the latency or MACs where that was not measured."""
    axes = {"speedup": "times faster than dense", "latency": "latency, ms", "macs": "GMAC"}
    x_name = next((n for n in axes if any(r.name == n for r in results)), "macs")
    names = {
        "drop": ("Points lost", f"points of {kind.score} lost"),
        kind.score_result: (capital(kind.score), f"{kind.score}, %"),
        kind.distance_result: (kind.distance, kind.distance_title),
        "agreement": (capital(kind.agreement), f"% {kind.agreement} as the dense model"),
    }
    order = list(dict.fromkeys(str(r.tags["method"]) for r in results if "method" in r.tags))
    looks = {method: look(method, index) for index, method in enumerate(m for m in order if m not in OWN)}
    looks |= {m: look(m, 0) for m in order if m in OWN}
    views = []
    for name, (label, y_title) in names.items():
        lines = {m: pairs for m in order if (pairs := _pairs(results, m, x_name, name))}
        if not lines:
            continue
        data = [_line(m, pairs, looks[m], axes[x_name], y_title) for m, pairs in lines.items()]
        log = name in DISTANCES and all(v > 0 for t in data for v in t["y"])
        layout = {"xaxis": {"title": {"text": axes[x_name]}}, "yaxis": {"type": "log"} if log else {}}
        views.append(View(label, y_title, data, layout, [Key(looks[m].mark, m, looks[m].colour) for m in lines]))
    if not views:
        return None
    drawn = [m for m in order if any(m == k.text for v in views for k in v.keys)]
    return Figure(
        name="methods",
        title="What is kept against what it takes",
        summary=f"Line plot comparing {len(drawn)} methods: {', '.join(drawn)}.",
        views=views,
    )


def _line(method: str, pairs: list[tuple[Result, Result]], style: "Look", x_title: str, y_title: str) -> Trace:
    ys, lead = [r for _, r in pairs], method == "pareto"

    def scale(value: float) -> float:
        return value if ys[0].name in DISTANCES else float(percent(ys[0], value) or 0.0)

    return {
        "type": "scatter", "mode": "markers" if method == "dense" else "lines+markers",
        "x": [a.value for a, _ in pairs], "y": [scale(r.value) for r in ys],
        "error_y": error_bars(ys, scale), "text": [safe(f"{method}, {r.tags.get('level', '')}") for r in ys],
        "line": {"color": style.colour, "width": 2.5 if lead else 1.2},
        "marker": {"color": style.colour, "size": 10 if lead else 7, "symbol": style.mark},
        "hovertemplate": f"%{{text}}<br>%{{x:.4g}} {x_title.rsplit(', ')[-1]}<br>"
        f"<b>%{{y:.4g}}</b> {y_title}<extra></extra>",
    }  # fmt: skip


@dataclass(frozen=True)
class Look:
    mark: str
    colour: str


OWN = {"pareto": Look("circle", "--accent"), "dense": Look("diamond", "--ink")}
MARKS = ("square", "triangle-up", "triangle-down", "x", "star", "cross", "pentagon")
HUES = 16  # --hue-0 to --hue-15 in the style sheet


def look(method: str, index: int) -> Look:
    """The accent for our planner, ink for dense, a hue and a mark for the others, told apart by `index`."""
    return OWN.get(method) or Look(MARKS[index % len(MARKS)], f"--hue-{index % HUES}")


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

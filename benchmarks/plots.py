"""Draws the plots of the docs from benchmarks/results/*.json, beside the tables of `benchmarks.table`."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib.figure import Figure

from benchmarks.common import RESULTS
from benchmarks.markdown import outward
from foveate.files import replacing

DOCS = Path(__file__).parent.parent / "docs"
COLOURS = {"IRET-style": "#0b6b60", "ViT/16": "#3a5a8c", "EViT-style, fine-tuned": "#a3541f"}
NAMES = {"ViT/16": "ViT/16, pruned without training"}
STYLE = {
    "svg.hashsalt": "foveate",  # the same ids, and so the same file, for the same results
    "svg.fonttype": "none",
    "font.family": "sans-serif", "font.size": 9, "figure.facecolor": "white",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#b9b5ab", "axes.labelcolor": "#1d2022",
    "axes.grid": True, "grid.color": "#e4e1d8", "xtick.color": "#50565b", "ytick.color": "#50565b",
    "legend.frameon": False,
}  # fmt: skip


def frontier(sheet: dict[str, Any]) -> Figure:
    """Top-1 against the share of the dense latency, a panel a runtime."""
    rows = [r for r in sheet["rows"].values() if r["kind"] in COLOURS]
    runtimes = sorted({(r["runtime"], r["precision"]) for r in rows})
    figure = Figure(figsize=(4.6 * len(runtimes), 3.6), layout="constrained")
    axes = figure.subplots(1, len(runtimes), sharey=True, squeeze=False)[0]
    for ax, (runtime, precision) in zip(axes, runtimes, strict=True):
        for kind, colour in COLOURS.items():
            found = [r for r in rows if (r["runtime"], r["precision"], r["kind"]) == (runtime, precision, kind)]
            found.sort(key=lambda r: r["latency_ratio"])
            x, y = [r["latency_ratio"] for r in found], [r["top1"] for r in found]
            bars = [[r["top1"] - r["top1_low"] for r in found], [r["top1_high"] - r["top1"] for r in found]]
            ax.errorbar(x, y, yerr=bars, color=colour, marker="o", ms=4, lw=1.4, elinewidth=0.5, capsize=0,
                        label=NAMES.get(kind, kind))  # fmt: skip
        ax.axvline(0.6, color="#b9b5ab", lw=0.8, ls="--", zorder=0)
        ax.set(xlabel="latency, share of ViT/16's (batch 1, by turns)", title=f"{runtime} {precision}")
    best = max(r["top1"] for r in rows)
    axes[0].set(ylabel="top-1 on the test photographs, %", ylim=(best - 14, best + 3))  # what lost more is in the table
    axes[0].legend(loc="lower right")
    return figure


def load(sheet: dict[str, Any]) -> Figure:
    """p99 and accuracy against the rate offered, knob free and fixed."""
    rows, slo_ms = list(sheet["rows"].values()), sheet["about"]["slo_ms"]
    figure = Figure(figsize=(9.2, 3.4), layout="constrained")
    waits, right = figure.subplots(1, 2)
    for kind, colour, name in (("free", "#0b6b60", "knob free"), ("fixed", "#3a5a8c", "fixed at full quality")):
        found = sorted((r for r in rows if r["kind"] == kind), key=lambda r: r["rate"])
        x = [r["rate"] for r in found]
        waits.plot(x, [r["p99_ms"] for r in found], color=colour, marker="o", ms=4, lw=1.4, label=name)
        right.plot(x, [r["accuracy"] for r in found], color=colour, marker="o", ms=4, lw=1.4, label=name)
    waits.axhline(slo_ms, color="#8f2f10", lw=0.8, ls="--", zorder=0)
    waits.annotate("objective", (waits.get_xlim()[0], slo_ms), color="#8f2f10", fontsize=8, va="bottom")
    waits.set(xlabel="requests offered, a second", ylabel="p99 of the wait, ms", yscale="log")
    right.set(xlabel="requests offered, a second", ylabel="right, % of those answered")
    waits.legend(loc="upper left")
    return figure


def fitted(sheet: dict[str, Any]) -> Figure:
    """The ladder of one fit, and the staircase it stepped down."""
    figure = Figure(figsize=(9.2, 3.2), layout="constrained")
    bars, curve = figure.subplots(1, 2, width_ratios=(1.25, 1))
    torch_ms = next((d["ms"] for d in sheet["dense"] if d["build"] == "eager fp32"), None)
    dense, plan = sheet["latency_ms"]["dense"]["p50"], sheet["latency_ms"]["plan"]["p50"]
    winner = next(row for row in sheet["ladder"] if row["role"] == "any")
    rows = [
        ("PyTorch, fp32", torch_ms, "#b9b5ab"),
        (f"the best dense build:\n{winner['runtime']} {winner['precision']}", dense, "#3a5a8c"),
        ("what foveate hands back", plan, "#0b6b60"),
    ]
    rows = [row for row in rows if row[1] is not None]
    drawn = bars.barh([r[0] for r in rows], [r[1] for r in rows], color=[r[2] for r in rows], height=0.6)
    bars.bar_label(drawn, [f"{r[1]:.1f} ms" for r in rows], padding=4)
    s = sheet["speedup"]
    bars.set(
        xlim=(0, 1.18 * max(r[1] for r in rows)), xlabel="one photograph, ms (median)",
    )  # fmt: skip
    low, high = outward(s["low"], s["high"])
    bars.set_title(f"{s['value']:.3f} times faster, 99 % interval {low:.3f} to {high:.3f}", fontsize=9)
    bars.invert_yaxis()
    bars.grid(axis="y", visible=False)
    x, y = sheet["curve"]["tokens"], sheet["curve"]["ms"]
    curve.plot(x, y, color="#3a5a8c", marker="o", ms=3, lw=1.2)
    counts = sorted({step["tokens"] for step in sheet["steps"]} & set(range(x[0], x[-1] + 1)))
    for n in counts:
        curve.axvline(n, color="#0b6b60", lw=0.9, ls="--", zorder=0)
    curve.set(xlabel="tokens", ylabel="one block, ms")
    curve.set_title("a staircase; dashed: where the plan lands", fontsize=9)
    return figure


def main() -> None:
    with matplotlib.rc_context(STYLE):
        for name, make in (("fitted", fitted), ("iret_frontier", frontier), ("serving", load)):
            if not (path := RESULTS / f"{name}.json").exists():
                continue
            with replacing(DOCS / f"{name}.svg") as made:
                make(json.loads(path.read_text())).savefig(made, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()

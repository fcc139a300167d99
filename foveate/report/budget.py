"""One page about a token budget of a model that sees: what stays, where the time goes, and what it costs."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.files import write_text
from foveate.report.figure import Figure, Key, Trace, View
from foveate.report.words import NONE, Table, fixed, number, sentence
from foveate.version import __version__

STAGES = {"encode_ms": "vision encoder", "select_ms": "choosing", "project_ms": "projector", "prefill_ms": "prefill"}
COLOURS = ("--hue-2", "--hue-1", "--hue-4", "--hue-0")
WIDEST = 1400  # pixels of a drawing on the page


@dataclass(frozen=True)
class Picture:
    name: str
    src: str  # data URL
    said: str
    parts: Table | None


def write_budget_report(found: Mapping[str, Any], drawn: Sequence[Path], path: Path) -> Path:
    """Write the page.

    Args:
        found: the fields of `budget.json`.
        drawn: a PNG of each picture on which what is dropped is faded; none where nothing was found.
        path: where the page goes.
    """
    from foveate.report.page import render

    plots = [f for f in (times(found), search(found), losses(found)) if f is not None]
    speed = found["speedup"]
    page = render(
        "budget.html.j2",
        title=f"Token budget for {Path(found['model']).name}",
        version=__version__,
        big=None if not speed or found["tokens"] is None else fixed(speed["value"], 2, limits=(1.0,)),
        tail=headline(found),
        reason=sentence(found["reason"]),
        proof=None if not speed else proof(found),
        cost=cost(found),
        notes=found["notes"],
        prompt=found["prompt"],
        met=found["tokens"] is not None,
        pictures=pictures(found, drawn),
        plots={f.name: f for f in plots},
        figures=plots,
        memory=memory(found),
        options=options(found),
        machine=machine(found["machine"]),
        command=f"foveate vlm generate {found['model']} --image PICTURE --budget {path.parent}",
    )
    return write_text(path, page)


def headline(found: Mapping[str, Any]) -> str:
    if found["tokens"] is None:
        return "No budget is handed back"
    if not found["speedup"]:
        return "All tokens keep within the limit"
    return "sooner to the first token"


def proof(found: Mapping[str, Any]) -> str:
    first = found["first_ms"]
    return (
        f"{number(first['all'])} ms with all tokens, {number(first['kept'])} ms with the budget, medians of "
        f"{found['speedup']['n']} pairs by turns."
    )


def cost(found: Mapping[str, Any]) -> str | None:
    if not found["cost"]:
        return None
    return (
        f"{100 * found['cost']['agreement']:.0f} % of the answer's tokens are those of all tokens; KL divergence "
        f"{number(found['cost']['kl'])} nats a token. That is one question: it tells budgets apart, and is no accuracy."
    )


def pictures(found: Mapping[str, Any], drawn: Sequence[Path]) -> list[Picture]:
    shown = []
    counted = zip(found["kept"], found["per_part"], strict=True) if drawn else ()
    for path, ((kept, of), parts) in zip(drawn, counted, strict=True):
        table = Table("Cells that stay, by part", ["part", "cells"], numeric=(1,))
        table.rows = [["whole view" if n == 0 else f"tile {n}", str(cells)] for n, cells in enumerate(parts)]
        said = f"{kept:,} of {of:,} tokens, newlines included; what is dropped is faded"
        shown.append(Picture(path.name, data_url(path), said, table if len(parts) > 1 else None))
    return shown


def data_url(path: Path) -> str:
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((WIDEST, WIDEST))
    held = io.BytesIO()
    small.save(held, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()


def times(found: Mapping[str, Any]) -> Figure | None:
    """Where the time to the first token goes, before and after."""
    stages: Mapping[str, Mapping[str, float]] = found["stages"]
    names = {"all": "all tokens", "kept": "budget"}
    shown = [which for which in ("kept", "all") if which in stages]  # plotted from below
    data: list[Trace] = [
        {
            "type": "bar", "orientation": "h", "name": label, "y": [names[w] for w in shown],
            "x": [stages[w][stage] for w in shown], "marker": {"color": colour},
            "hovertemplate": f"{label}<br><b>%{{x:.4g}} ms</b><extra></extra>",
        }
        for (stage, label), colour in zip(STAGES.items(), COLOURS, strict=True)
    ]  # fmt: skip
    keys = [Key("square", label, colour) for label, colour in zip(STAGES.values(), COLOURS, strict=True)]
    table = Table("Milliseconds by stage", ["stage", *(names[w] for w in reversed(shown))])
    table.numeric = tuple(range(1, 1 + len(shown)))
    for stage, label in {**STAGES, "decode_ms": "each further token"}.items():
        table.rows.append([label, *(number(stages[w][stage]) for w in reversed(shown))])
    layout = {"barmode": "stack", "xaxis": {"title": {"text": "ms to the first token, stage by stage"}}, "yaxis": {}}
    return Figure(
        name="times", title="Where the time goes", summary="Stacked bars of the stages' milliseconds.",
        views=[View("stages", "", data, layout, keys)], table=table,
        note="Stages are timed one by one, so that their sum is a little more than the whole.",
    )  # fmt: skip


def search(found: Mapping[str, Any]) -> Figure | None:
    """What was measured while the limit was searched."""
    seen = sorted((int(n), value) for n, value in found["measured"].items())
    if len(seen) < 2:
        return None
    ((unit, limit),) = found["limit"].items()
    what = "ms to the first token" if unit == "ttft_ms" else "GB in use"
    x, y = [n for n, _ in seen], [v for _, v in seen]
    data: list[Trace] = [{
        "type": "scatter", "mode": "lines+markers", "x": x, "y": y, "line": {"color": "--trace", "width": 1.5},
        "marker": {"color": "--trace", "size": 6}, "hovertemplate": "%{x} tokens<br><b>%{y:.4g}</b><extra></extra>",
    }]  # fmt: skip
    keys = [Key("line", "measured", "--trace"), Key("dash", f"limit, {limit:g}", "--soft")]
    if found["tokens"] is not None and found["value"] is not None:
        data.append({
            "type": "scatter", "mode": "markers", "x": [found["tokens"]], "y": [found["value"]],
            "marker": {"color": "--accent", "size": 12, "line": {"color": "--paper", "width": 2}},
            "hovertemplate": "%{x} tokens, chosen<br><b>%{y:.4g}</b><extra></extra>",
        })  # fmt: skip
        keys.append(Key("dot", "chosen"))
    line = {
        "type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": limit, "y1": limit, "layer": "below",
        "line": {"color": "--soft", "width": 1, "dash": "4px,3px"},
    }  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "tokens a picture"}},
        "yaxis": {"rangemode": "tozero"} if unit == "ttft_ms" else {}, "shapes": [line],
    }  # fmt: skip
    table = Table("Counts that were tried", ["tokens", what], [[str(n), number(v)] for n, v in seen], numeric=(0, 1))
    return Figure(
        name="search", title="The limit", summary=f"Line plot of {len(seen)} counts and {what}, with the limit.",
        views=[View("search", what, data, layout, keys)], table=table,
    )  # fmt: skip


def losses(found: Mapping[str, Any]) -> Figure | None:
    """What shares of the tokens cost on the question."""
    points = found["curve"]
    if not points:
        return None
    x = [p["tokens"] for p in points]
    ways = (
        ("same words", "% of the answer's tokens that are the same", [100 * p["cost"]["agreement"] for p in points]),
        ("KL", "KL divergence, nats a token", [p["cost"]["kl"] for p in points]),
    )
    views = []
    for label, title, y in ways:
        data: list[Trace] = [{
            "type": "scatter", "mode": "lines+markers", "x": x, "y": y, "line": {"color": "--accent", "width": 1.5},
            "marker": {"color": "--accent", "size": 7},
            "hovertemplate": "%{x} tokens<br><b>%{y:.4g}</b><extra></extra>",
        }]  # fmt: skip
        layout = {"xaxis": {"title": {"text": "tokens a picture"}}, "yaxis": {"rangemode": "tozero"}}
        views.append(View(label, title, data, layout, [Key("line", "on this question")]))
    table = Table("Shares of the tokens", ["share", "tokens", "same, %", "KL, nats"], numeric=(0, 1, 2, 3))
    table.rows = [
        [f"{100 * p['share']:g} %", str(p["tokens"]), f"{100 * p['cost']['agreement']:.0f}", number(p["cost"]["kl"])]
        for p in points
    ]
    return Figure(
        name="losses", title="What fewer tokens cost", summary="Line plot of agreement and KL against tokens.",
        views=views, table=table,
    )  # fmt: skip


def memory(found: Mapping[str, Any]) -> Table | None:
    if not found["peak_gb"]:
        return None
    names = {"all": "all tokens", "kept": "budget"}
    rows = [[names[which], f"{gb:.2f}"] for which, gb in found["peak_gb"].items()]
    return Table("Most memory in use, GB, weights included", ["", "GB"], rows, numeric=(1,))


def options(found: Mapping[str, Any]) -> Table | None:
    """What the encoder was tried with; None where there was nothing to choose."""
    if len(found["options"]) < 2:
        return None
    table = Table("What the encoder merges", ["encoder", "tokens within the limit", "KL, nats", "same, %"])
    table.numeric = (1, 2, 3)
    for option in found["options"]:
        if option["encoder"] == found["encoder"] and found["tokens"] is not None:
            table.marked.add(len(table.rows))
        c = option["cost"]
        table.rows.append([
            option["encoder"] or "as it was given", NONE if option["tokens"] is None else str(option["tokens"]),
            NONE if c is None else number(c["kl"]), NONE if c is None else f"{100 * c['agreement']:.0f}",
        ])  # fmt: skip
    return table


def machine(facts: Mapping[str, Any]) -> Table:
    flat = {k: v for k, v in facts.items() if isinstance(v, str | int | float) and not isinstance(v, bool)}
    flat |= facts.get("versions") or {}
    return Table("Where it was measured", ["fact", "value"], [[k.replace("_", " "), str(v)] for k, v in flat.items()])

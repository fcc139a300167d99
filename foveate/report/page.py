"""`report.html`: one self-contained page about what `foveate fit` found."""

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from foveate import __version__
from foveate.files import write_text
from foveate.report import figures, tables
from foveate.report.knob import knob
from foveate.report.overlay import Drawing, draw
from foveate.report.read import Overlays, Written, read_folder
from foveate.report.words import fixed, seconds, sentence, tie

TEMPLATES = Path(__file__).parent / "templates"
KINDS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


def write_report(folder: str | Path) -> Path:
    """Write `report.html` into a folder that `foveate fit` wrote; returns its path.

    The page needs nothing beside itself: styles, plots and photographs are inside, and it asks no network for anything.
    What the folder lacks is left out of the page, which says so.

    Raises:
        InputError: where the folder cannot be read, lacks `plan.json` or `results.jsonl`, holds a damaged file, or
            cannot be written.
    """
    written = read_folder(folder)
    return write_text(written.folder / "report.html", render("report.html.j2", **context(written)))


def context(written: Written) -> dict[str, Any]:
    """What the template shows: text and plain values, nothing left to compute."""
    plots = {"knob": knob(written), "curve": figures.curve(written), "tried": figures.tried(written)}
    peaks, headroom = tables.peak_table(written)
    plan, verdict = written.plan, written.verdict
    cards = [] if written.overlays is None or plan.dense else _cards(written, written.overlays)
    return {
        "title": f"{plan.model.name} on {plan.target.runtime} {plan.target.precision}",
        "version": __version__,
        "plan": plan,
        "verdict": verdict,
        "took": None if verdict is None or verdict.seconds is None else seconds(verdict.seconds),
        "claim": tables.claim(written),
        "random_weights": written.random_weights,
        "keys": tables.key_figures(written),
        "steps": tables.steps_table(written),
        "stairs": tables.staircase(written),
        "latencies": tables.latency_table(written),
        "speedups": tables.speed_table(written),
        "runtimes": tables.runtime_table(written),
        "origin": tables.origin_table(written),
        "peaks": peaks,
        "headroom": headroom,
        "photos": cards,
        "has_overlays": written.overlays is not None,
        "plots": plots,
        "figures": [f for f in plots.values() if f is not None],
        "methods": sorted({s.method for s in plan.steps}),
    }


@dataclass(frozen=True)
class Panel:
    """One reducing block of one photograph."""

    title: str
    caption: str
    label: str  # read out in place of the drawing
    drawing: Drawing


@dataclass(frozen=True)
class Guess:
    name: str
    percent: str
    width: float  # percent


@dataclass(frozen=True)
class Card:
    id: str
    name: str
    src: str
    rows: int
    columns: int
    panels: list[Panel]
    dense: list[Guess]
    reduced: list[Guess]


def _cards(written: Written, overlays: Overlays) -> list[Card]:
    h, w = overlays.grid
    plan = written.plan
    after, prefix = plan.schedule.after, plan.model.prefix
    methods = {s.block: s.method for s in plan.steps}
    cards = []
    for i, photo in enumerate(overlays.images):
        panels = []
        for block, source in sorted(photo.blocks.items()):
            d = draw(source, overlays.grid, photo.jpeg)
            tokens = d.tokens + prefix
            planned = after[block] if block < len(after) else tokens
            parts = [f"{d.kept} patches kept as they are"]
            if d.merged:
                parts.append(f"{d.merged} merged into {len(d.regions)}")
            if d.gone:
                parts.append(f"{d.gone} dropped")
            odd = "" if tokens == planned else f" (the plan says {planned})"
            method = f", {methods[block]}" if block in methods else ""
            panels.append(
                Panel(
                    title=f"Block {block + 1}{method}",
                    caption=f"{tokens} tokens{odd}",
                    label=f"{photo.name} after block {block + 1}: {tokens} tokens; {', '.join(parts)}.",
                    drawing=d,
                )
            )
        card = Card(f"photo-{i}", photo.name, data_uri(photo.jpeg), h, w, panels, _guesses(photo.dense),
                    _guesses(photo.reduced))  # fmt: skip
        cards.append(card)
    return cards


def _guesses(top: list[tuple[str | int, float]]) -> list[Guess]:
    return [Guess(str(name), f"{fixed(100 * p)} %", round(100 * min(max(p, 0.0), 1.0), 2)) for name, p in top[:3]]


def data_uri(picture: bytes) -> str:
    """A JPEG, PNG or WebP as an address that holds it."""
    from PIL import Image

    with Image.open(BytesIO(picture)) as image:
        kind = KINDS[image.format or "JPEG"]
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"


def render(template: str, **values: Any) -> str:
    """A template of this package as a page. `figures` go into it as data; scripts run only if their hash is listed."""
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    env.filters |= {"tie": tie, "sentence": sentence}
    plots = [f for f in values.get("figures", []) if f is not None]
    scripts = {"theme": _asset("theme.js"), "page": _asset("page.js"), "plotly": _plotly() if plots else ""}
    hashes = ["sha256-" + base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts.values() if s]
    return env.get_template(template).render(
        **values,
        style=_asset("style.css"),
        scripts=scripts,
        script_hashes=hashes,
        data=embed({f.name: f.payload() for f in plots}),
    )


def embed(value: object) -> str:
    """JSON to stand inside a script element: it can open or close no tag; NaN and infinity become null."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8").replace("\r\n", "\n")


@lru_cache(maxsize=1)
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("\r\n", "\n").replace("</script", "<\\/script")

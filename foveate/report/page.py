"""`report.html`: one self-contained page about what `foveate fit` found."""

import base64
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.files import write_text
from foveate.report import tables
from foveate.report.claim import claim
from foveate.report.curve import curve
from foveate.report.key_figures import key_figures
from foveate.report.ladder import ladder
from foveate.report.operating import operating_points
from foveate.report.photos import cards
from foveate.report.read import Written, read_folder
from foveate.report.tried import tried
from foveate.report.words import seconds, sentence, tie
from foveate.version import __version__

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent / "templates"
PLOTLY = Path(__file__).parent / "plotly" / "plotly-basic.min.js"


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
    plots = {"points": operating_points(written), "curve": curve(written), "tried": tried(written)}
    peaks, headroom = tables.peak_table(written)
    plan, verdict = written.plan, written.verdict
    photos = [] if written.overlays is None or plan.dense else cards(written, written.overlays)
    return {
        "title": f"{plan.model.name} on {plan.target.runtime} {plan.target.precision}",
        "version": __version__,
        "plan": plan,
        "verdict": verdict,
        "lacking": written.lacking,
        "kind": written.kind,
        "outputs": written.outputs,
        "took": None if verdict is None else seconds(verdict.seconds),
        "claim": claim(written),
        "ladder": ladder(written),
        "random_weights": written.random_weights,
        "keys": key_figures(written),
        "steps": tables.steps_table(written),
        "last_block": tables.last_block(written),
        "stairs": tables.staircase(written),
        "latencies": tables.latency_table(written),
        "speedups": tables.speed_table(written),
        "runtimes": tables.runtime_table(written),
        "origin": tables.origins(written.results),
        "peaks": peaks,
        "headroom": headroom,
        "photos": photos,
        "has_overlays": written.overlays is not None,
        "plots": plots,
        "figures": [f for f in plots.values() if f is not None],
        "methods": sorted({s.method for s in plan.steps}),
    }


def render(template: str, **values: Any) -> str:
    """A template of this package as a page. `figures` go into it as data; scripts run only if their hash is listed."""
    plots = [f for f in values.get("figures", []) if f is not None]
    scripts = {"theme": _asset("theme.js"), "page": _asset("page.js"), "plotly": _plotly() if plots else ""}
    hashes = ["sha256-" + base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts.values() if s]
    return (
        _templates()
        .get_template(template)
        .render(
            **values,
            style=_asset("style.css"),
            scripts=scripts,
            script_hashes=hashes,
            data=embed({f.name: f.payload() for f in plots}),
        )
    )


@lru_cache(maxsize=1)
def _templates() -> "jinja2.Environment":
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    env.filters |= {"tie": tie, "sentence": sentence}
    return env


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
    """Plotly's basic bundle: it draws what `figure` describes, at a quarter of the whole library's size."""
    return PLOTLY.read_text(encoding="utf-8").replace("\r\n", "\n").replace("</script", "<\\/script")

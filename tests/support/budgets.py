"""A page of `vlm fit` that found a budget: figures as a fit writes them, and a picture wider than a page."""

from pathlib import Path
from typing import Any

from PIL import Image

from foveate.report.budget import write_budget_report


def stages(prefill: float) -> dict[str, float]:
    return {"encode_ms": 18.3, "select_ms": 1.6, "project_ms": 1.1, "prefill_ms": prefill, "decode_ms": 36.0}


FOUND: dict[str, Any] = {
    "model": "models/a-vision-language-model", "prompt": "Which word is top right?", "tokens": 90, "kept": [(90, 199)],
    "per_part": [(45, 5, 8, 10, 13)], "limit": {"ttft_ms": 130.0}, "value": 125.6, "encoder": "tome:8",
    "measured": {1: 64.9, 60: 99.8, 80: 116.0, 90: 125.1, 140: 160.2, 199: 201.5},
    "first_ms": {"all": 200.0, "kept": 125.6},
    "options": [
        {"encoder": None, "tokens": None, "cost": None},
        {"encoder": "tome:8", "tokens": 90, "cost": {"kl": 0.066, "agreement": 0.5}},
    ],
    "speedup": {"value": 1.593, "low": 1.573, "high": 1.607, "level": 0.99, "n": 64},
    "stages": {"all": stages(178.8), "kept": stages(102.0)}, "peak_gb": {"all": 1.19, "kept": 1.18},
    "cost": {"kl": 0.066, "agreement": 0.5},
    "curve": [
        {"share": s, "tokens": round(199 * s), "cost": {"kl": 0.4 - s / 2, "agreement": s}}
        for s in (0.05, 0.1, 0.2, 0.4, 0.7)
    ],
    "reason": "90 of 199 tokens keep within 130 ms to the first token; the first token comes 1.593 times sooner",
    "machine": {"cpu": "a processor", "cores": 2, "versions": {"torch": "2.14.1"}}, "notes": ("something else ran",),
}  # fmt: skip


def write_budget_page(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = path.with_name("0-a_page_that_was_asked_about.png")
    Image.effect_noise((1900, 480), 60).convert("RGB").save(drawn)
    return write_budget_report(FOUND, [drawn], path)

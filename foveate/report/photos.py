"""Photographs with what was kept of them at every reducing block, and both builds' answers."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from foveate.report.overlay import Drawing, draw
from foveate.report.read import Written
from foveate.report.words import fixed
from foveate.written import Overlays, Photo

KINDS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Panel:
    """One reducing block of one photograph."""

    title: str
    caption: str
    label: str  # read out in place of the drawing
    drawing: Drawing


@dataclass(frozen=True)
class Guess:
    """A class and its share."""

    name: str
    percent: str
    width: float  # percent


@dataclass(frozen=True)
class Answer:
    """What one build says to a photograph: classes, words, a mask laid over it, or several of these."""

    build: str
    guesses: list[Guess]
    said: str
    mask: str  # address of a picture that covers the photograph, or empty


@dataclass(frozen=True)
class Card:
    """A photograph with its reducing blocks and both builds' answers."""

    id: str
    name: str
    src: str
    rows: int
    columns: int
    panels: list[Panel]
    answers: list[Answer]


def cards(written: Written, overlays: Overlays) -> list[Card]:
    h, w = overlays.grid
    plan = written.plan
    after, prefix = plan.schedule.after, plan.model.prefix
    methods = {s.block: s.method for s in plan.steps}
    found = []
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
                    title=f"After block {block + 1}{method}",
                    caption=f"{tokens} tokens{odd}",
                    label=f"{photo.name} after block {block + 1}: {tokens} tokens; {', '.join(parts)}.",
                    drawing=d,
                )
            )
        found.append(Card(f"photo-{i}", photo.name, data_uri(photo.jpeg), h, w, panels, _answers(photo)))
    return found


def _answers(photo: Photo) -> list[Answer]:
    """Dense, then reduced; without those that say nothing."""
    answers = [
        Answer("Dense", _guesses(photo.dense), photo.dense_said, _mask(photo.dense_mask)),
        Answer("Reduced", _guesses(photo.reduced), photo.reduced_said, _mask(photo.reduced_mask)),
    ]
    return [a for a in answers if a.guesses or a.said or a.mask]


def _mask(text: str | None) -> str:
    return "" if text is None else data_uri(base64.b64decode(text))


def _guesses(top: Sequence[tuple[str | int, float]]) -> list[Guess]:
    return [Guess(str(name), f"{fixed(100 * p)} %", round(100 * min(max(p, 0.0), 1.0), 2)) for name, p in top[:3]]


def data_uri(picture: bytes) -> str:
    """A JPEG, PNG or WebP as an address that holds it."""
    from PIL import Image

    with Image.open(BytesIO(picture)) as image:
        kind = KINDS[image.format or "JPEG"]
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"

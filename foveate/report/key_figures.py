"""What a reader asks first, each with what it is compared to and what stands behind it."""

from dataclasses import dataclass

from foveate.report.figure import as_float
from foveate.report.read import Written
from foveate.report.words import capital, evidence, fixed, joined, number, percent, points, text
from foveate.result import Result


@dataclass(frozen=True)
class KeyFigure:
    label: str
    value: str
    unit: str
    detail: str


def key_figures(written: Written) -> list[KeyFigure]:
    found = [_latency(written), _share(written, "macs", "Arithmetic an image", "GMAC"), _energy(written)]
    if not written.random_weights:  # else what follows would measure noise
        found += [_score(written), *_kept(written)]
    return [f for f in (*found, _parity(written)) if f is not None]


def _role(written: Written) -> str:
    return "dense" if written.plan.dense else "chosen"


def _latency(written: Written) -> KeyFigure | None:
    rows, limits = written.timings, (written.most_ms,)
    mine, dense = rows.get("dense" if written.plan.dense else "plan"), rows.get("dense")
    if mine is None:
        return None
    beside = "" if dense is None or written.plan.dense else f"dense {number(dense.p50, limits=limits)} ms"
    return KeyFigure(
        "Latency, median", number(mine.p50, limits=limits), "ms", joined([beside, f"n = {mine.n:,}" if mine.n else ""])
    )


def _share(written: Written, name: str, label: str, unit: str, said: str = "") -> KeyFigure | None:
    """A figure of the plan, what share it is of the dense build's, and that."""
    mine, base = written.first(name, plan=_role(written)), written.first(name, plan="dense")
    if mine is None:
        return None
    parts = [said]
    if base is not None and base.value and not written.plan.dense:
        share = fixed(mine.value / base.value, 2, limits=(1.0,))
        parts = [f"{share} of dense", said or f"dense {number(base.value)} {unit}"]
    return KeyFigure(label, number(mine.value), unit, joined(parts))


def _energy(written: Written) -> KeyFigure | None:
    mine = written.first("energy", plan=_role(written))
    said = "" if mine is None else f"{text(mine.tags.get('how'))}: {text(mine.tags.get('source'))}"
    return _share(written, "energy", "Energy an image", "mJ", said)


def _score(written: Written) -> KeyFigure | None:
    kind = written.kind
    mine, base = (written.loss(kind.score_result, plan=role) for role in (_role(written), "dense"))
    if mine is None:
        return None
    parts = [] if base is None or written.plan.dense else [f"dense {fixed(percent(base, base.value))} %"]
    return KeyFigure(
        capital(kind.score), fixed(points(mine)[0]), "%", joined([*parts, evidence(mine, scale=True)])
    )  # fmt: skip


def _kept(written: Written) -> list[KeyFigure]:
    """How near the plan's answers are to the dense model's."""
    if written.plan.dense:
        return []
    kind, rows = written.kind, []
    if (same := written.loss("agreement", plan="chosen")) is not None:
        value = fixed(points(same)[0], limits=(100.0,))
        rows.append(KeyFigure(f"{capital(kind.agreement)} as dense", value, "%", evidence(same, scale=True)))
    # Where cosines are given, their distance from 1 would say the same again.
    cosines = [(w, r) for n, w in COSINES.items() if (r := written.loss(n, plan="chosen")) is not None]
    rows += [KeyFigure(words, fixed(r.value, 3, limits=(1.0,)), "", evidence(r, places=4)) for words, r in cosines]
    distance: Result | None = written.loss(kind.distance_result, plan="chosen")
    if distance is not None and not cosines:
        label = f"{kind.distance} to dense"
        rows.append(KeyFigure(label, number(distance.value), kind.unit, evidence(distance, places=4)))
    return rows


COSINES = {"cosine": "Cosine to dense, mean", "worst_cosine": "Cosine to dense, worst"}


def _parity(written: Written) -> KeyFigure | None:
    found = written.first("parity", plan=_role(written)) or written.first("parity")
    if found is None:
        return None
    same = as_float(found.tags.get("agreement"))
    same_text = "" if same is None else f"{written.kind.agreement} on {fixed(100 * same, limits=(100.0,))} %"
    detail = joined(["the file in its runtime against the same plan in torch", same_text, evidence(found)])
    return KeyFigure("File fidelity", number(found.value), found.unit, detail)

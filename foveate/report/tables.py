"""The parts of a page that are words and numbers: what is claimed, the key figures, and the tables."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

from foveate.report.read import Written
from foveate.report.words import (
    NONE,
    Table,
    between,
    evidence,
    fixed,
    level_text,
    number,
    percent,
    points,
    ratios,
    step_text,
)
from foveate.result import Result, Tag

WHERE = {
    "unseen": "photographs the planner did not see",
    "confirm": "photographs held out of the search",
    "search": "photographs the planner searched on",
}


@dataclass(frozen=True)
class Strip:
    """An interval drawn against 1; positions in percent of its width."""

    one: float
    low: float
    value: float
    high: float
    low_text: str
    high_text: str
    label: str


@dataclass(frozen=True)
class Claim:
    """The head of the page: a big figure or words, what stands behind it, and what it cost."""

    faster: bool
    big: str
    tail: str
    proof: str
    cost: str
    warning: str
    strip: Strip | None


@dataclass(frozen=True)
class Figure:
    label: str
    value: str
    unit: str
    detail: str


def claim(written: Written) -> Claim:
    plan, verdict = written.plan, written.verdict
    found = written.verified("speedup", plan="chosen")
    given = found or (verdict.speedup if verdict is not None else None)
    value = None if given is None else given.value
    faster = not plan.dense if verdict is None else verdict.outcome == "faster"
    where = f"{plan.target.runtime} {plan.target.precision}, batch {plan.target.batch}"
    threads = plan.target.threads
    where += "" if threads is None else f", {threads} thread{'s' if threads > 1 else ''}"
    if not faster or given is None or value is None or not isfinite(value):
        dense = written.verified("latency", plan="dense")
        speed = "" if dense is None else f" at {number(dense.value)} ms"
        words = "Faster, by an amount this folder does not tell" if faster else "Dense stays"
        proof = "" if faster else f"The best dense build is what stands in this folder: {where}{speed}."
        return Claim(faster, "", words, proof, "", "", None)
    big, low, high = ratios(value, given.low, given.high)
    proof = f"than the best dense build on this machine ({where})."
    if given.low is not None and given.high is not None:
        level = "Interval" if given.level is None else f"{level_text(given.level)} interval"
        pairs = "" if given.n is None else f" over {given.n:,} paired runs"
        proof += f" {level} {low} to {high}{pairs}."
    warning = ""
    if given.low is None or given.low <= 1:
        warning = "The interval does not exclude 1: this speed-up is not proven."
    return Claim(True, big, "faster", proof, cost(written), warning, strip(value, given.low, given.high))


def strip(value: float, low: float | None, high: float | None) -> Strip | None:
    if low is None or high is None or not (isfinite(low) and isfinite(high)):
        return None
    left, right = min(1.0, low), max(1.0, high)
    pad = 0.08 * (right - left) or 0.1
    at = lambda v: round(100 * (v - left + pad) / (right - left + 2 * pad), 2)
    text = ratios(low, value, high)
    label = f"Speed-up {text[1]}, interval {text[0]} to {text[2]}, drawn against 1, the dense build"
    return Strip(at(1.0), at(low), at(value), at(high), text[0], text[2], label)


def cost(written: Written) -> str:
    """`0.4 points of top-1 lost (95 % interval -0.8 to 1.6), on 84 photographs the planner did not see.`"""
    drop = written.loss("drop", plan="chosen")
    if drop is not None:
        value, low, high = points(drop)
        if value is None:
            return ""
        word = "lost" if value >= 0 else "gained"
        if value < 0:
            value, low, high = -value, *((None, None) if low is None or high is None else (-high, -low))
        return f"{fixed(value)} points of top-1 {word}{_bracket(drop, low, high)}, on {_photos(drop)}."
    same = written.loss("agreement", plan="chosen")
    if same is None:
        return ""
    value, low, high = points(same)
    text = f"The same top-1 as the dense model on {fixed(value)} %{_bracket(same, low, high, ' %')} of {_photos(same)}"
    kl = written.loss("kl", plan="chosen")
    return f"{text}; KL {number(kl.value)} nats." if kl is not None else f"{text}."


def _bracket(result: Result, low: float | None, high: float | None, unit: str = "") -> str:
    if not (text := between(low, high)):
        return ""
    level = "interval" if result.level is None else f"{level_text(result.level)} interval"
    return f" ({level} {text}{unit})"


def _photos(result: Result) -> str:
    where = WHERE.get(str(result.tags.get("split")), "photographs")
    return where if result.n is None else f"{result.n:,} {where}"


def key_figures(written: Written) -> list[Figure]:
    """What a reader asks first, each with what it is compared to and what stands behind it."""
    plan, rows = written.plan, []
    role = "dense" if plan.dense else "chosen"
    dense, mine = written.verified("latency", plan="dense"), written.verified("latency", plan=role)
    if mine is not None:
        parts = [] if dense is None or plan.dense else [f"dense {number(dense.value)} ms"]
        parts += [evidence(mine, places=2)]
        rows.append(Figure("Latency, median", number(mine.value), "ms", _join(parts)))
    macs, base = written.first("macs", plan=role), written.first("macs", plan="dense")
    if macs is not None:
        share = "" if base is None or plan.dense or not base.value else f"{fixed(macs.value / base.value, 2)} of dense"
        parts = [share, "" if base is None or plan.dense else f"dense {number(base.value)} GMAC"]
        rows.append(Figure("Arithmetic an image", number(macs.value), "GMAC", _join(parts)))
    energy, whole = written.first("energy", plan=role), written.first("energy", plan="dense")
    if energy is not None:
        share = (
            "" if whole is None or plan.dense or not whole.value else f"{fixed(energy.value / whole.value, 2)} of dense"
        )
        said = f"{text(energy.tags.get('how'))}: {text(energy.tags.get('source'))}"
        rows.append(Figure("Energy an image", number(energy.value), "mJ", _join([share, said])))
    told = not written.random_weights  # else what follows would measure noise
    accuracy = written.loss("accuracy", plan=role)
    if accuracy is not None and told:
        value, _, _ = points(accuracy)
        other = None if plan.dense else written.loss("accuracy", plan="dense")
        parts = [] if other is None else [f"dense {fixed(percent(other, other.value))} %"]
        parts += [evidence(accuracy, scale=True)]
        rows.append(Figure("Top-1", fixed(value), "%", _join(parts)))
    if not plan.dense and told:
        same, kl = written.loss("agreement", plan=role), written.loss("kl", plan=role)
        if same is not None:
            value, _, _ = points(same)
            parts = [evidence(same, scale=True)]
            rows.append(Figure("Same top-1 as dense", fixed(value), "%", _join(parts)))
        if kl is not None:
            rows.append(Figure("KL to dense", number(kl.value), "nats", evidence(kl, places=4)))
    parity = written.first("parity", plan=role) or written.first("parity")
    if parity is not None:
        extra = parity.tags.get("agreement")
        same_text = f"same top-1 on {fixed(100 * extra)} %" if isinstance(extra, float | int) else ""
        detail = _join(["the file in its runtime against the same plan in torch", same_text, evidence(parity)])
        rows.append(Figure("File fidelity", number(parity.value), parity.unit, detail))
    return rows


def _join(parts: Iterable[str]) -> str:
    return "; ".join(p for p in parts if p)


def steps_table(written: Written) -> Table:
    table = Table("The plan", ["block", "method", "tokens after it", "of"], numeric=(2, 3))
    now = written.plan.model.tokens
    for step in written.plan.steps:
        table.rows.append([str(step.block + 1), step_text(step), str(step.tokens), str(now)])
        now = step.tokens
    return table


@dataclass(frozen=True)
class Stair:
    """One block of the token staircase."""

    block: int
    tokens: int
    height: float  # percent of the start
    reduces: bool


def staircase(written: Written) -> list[Stair]:
    schedule = written.plan.schedule
    cuts = schedule.cuts
    return [Stair(i + 1, n, round(100 * n / schedule.start, 2), i in cuts) for i, n in enumerate(schedule.after)]


def latency_table(written: Written) -> Table | None:
    """Every latency of the final check, or of the search where there was none; percentiles only where n allows."""
    rows = [r for r in written.find("latency") if r.tags.get("stage", "verify") == "verify"] or written.find("latency")
    if not rows:
        return None
    table = Table(
        "Latencies", ["build", "runtime", "batch", "threads", "p50, ms", "p90, ms", "p99, ms", "n"],
        numeric=(2, 3, 4, 5, 6, 7),
    )  # fmt: skip
    for r in rows:
        if r.tags.get("plan") == "chosen":
            table.marked.add(len(table.rows))
        table.rows.append(
            [
                text(r.tags.get("plan")),
                f"{text(r.tags.get('runtime'))} {r.tags.get('precision') or ''}".strip(),
                text(r.tags.get("batch")),
                text(r.tags.get("threads", r.origin.get("threads"))),
                number(r.value), _ms(r, "p90"), _ms(r, "p99"), NONE if r.n is None else f"{r.n:,}",
            ]
        )  # fmt: skip
    return table


def _ms(r: Result, tag: str) -> str:
    value = r.tags.get(tag)
    return number(float(value)) if isinstance(value, int | float) else NONE


def speed_table(written: Written) -> Table | None:
    """All speed-ups, where there are more than the one in the head of the page."""
    rows = written.find("speedup")
    if len(rows) < 2:
        return None
    table = Table("Speed-ups", ["plan", "against", "runtime", "batch", "speed-up", "low", "high", "n"])
    table.numeric = (3, 4, 5, 6, 7)
    for r in rows:
        value, low, high = ratios(r.value, r.low, r.high)
        runtime = f"{text(r.tags.get('runtime'))} {r.tags.get('precision') or ''}".strip()
        table.rows.append(
            [text(r.tags.get("plan")), text(r.tags.get("baseline")), runtime, text(r.tags.get("batch")),
             value, low, high, NONE if r.n is None else f"{r.n:,}"]
        )  # fmt: skip
    return table


def runtime_table(written: Written) -> Table | None:
    rows = written.find("runtime")
    if not rows:
        return None
    table = Table(
        "Dense model in every runtime", ["runtime", "precision", "dense, ms", "same top-1 as torch", "remarks"],
        numeric=(2, 3),
    )  # fmt: skip
    rows.sort(key=lambda r: (not _available(r), r.value if _available(r) else 0.0))
    for r in rows:
        chosen, reason = bool(r.tags.get("chosen")), r.tags.get("reason")
        if chosen:
            table.marked.add(len(table.rows))
        same = r.tags.get("agreement", r.tags.get("agreement with torch"))
        remarks = "chosen" if chosen else ""
        remarks = _join([remarks, str(reason) if reason else "" if _available(r) else "not available here"])
        table.rows.append(
            [
                text(r.tags.get("runtime")),
                text(r.tags.get("precision")),
                number(r.value) if _available(r) else NONE,
                f"{fixed(100 * same)} %" if isinstance(same, int | float) and not isinstance(same, bool) else NONE,
                remarks,
            ]
        )
    return table


def _available(r: Result) -> bool:
    return bool(r.tags.get("available", r.value > 0))


def peak_table(written: Written) -> tuple[Table | None, str]:
    """Measured peaks, and a sentence on how far the model runs from that of its precision."""
    peaks = [r for r in written.results if r.name.startswith("peak") and isfinite(r.value)]
    if not peaks:
        return None, ""
    table = Table("Measured peaks", ["what", "peak"], numeric=(1,))
    for r in peaks:
        kind = r.tags.get("precision")
        name = text(r.tags.get("what", r.name)) + (f", {kind}" if kind else "")
        table.rows.append([name, f"{number(r.value)} {r.unit}"])
    products = [r for r in peaks if "flop" in r.unit.lower()]
    precision = written.plan.target.precision
    same = [r for r in products if precision in (r.tags.get("precision"), *str(r.tags.get("what", "")).split())]
    said = []
    for role in ("dense",) if written.plan.dense else ("dense", "chosen"):
        macs, latency = written.first("macs", plan=role), written.verified("latency", plan=role)
        if macs is None or latency is None or not latency.value:
            continue
        rate = 2 * macs.value * written.plan.target.batch / (latency.value / 1e3)
        share = f", {fixed(100 * rate / same[0].value, 0)} % of the {precision} peak" if same else ""
        said.append(f"the {role} build runs at {number(rate)} GFLOP/s{share}")
    if not said:
        return table, ""
    sentence = " and ".join(said)
    return table, f"{sentence[0].upper()}{sentence[1:]} (two operations a MAC, over the median latency)."


def origin_table(written: Written) -> Table | None:
    """Every fact of origin once; where results disagree, all that they say."""
    return origins(written.results)


def origins(results: Iterable[Result]) -> Table | None:
    facts: dict[str, list[str]] = {}
    for r in results:
        for key, value in r.origin.items():
            said = facts.setdefault(key, [])
            if value is not None and (words := text(value)) not in said:
                said.append(words)
    rows = [[key.replace("_", " "), "; ".join(said[:4])] for key, said in facts.items() if said]
    return Table("Where it was measured", ["fact", "value"], rows) if rows else None


def text(value: Tag) -> str:
    """A tag or fact as words."""
    if value is None or value == "":
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, 4)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

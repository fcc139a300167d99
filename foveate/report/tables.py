"""The tables of a page, and the staircase of tokens."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

from foveate.report.figure import as_float
from foveate.report.read import NAMES, ROLES, Written
from foveate.report.words import NONE, Table, bounded, capital, fixed, joined, number, step_text, text
from foveate.result import Result

FACTS = {"device": "device", "board": "GPU", "gpu": "GPUs here", "cpu": "processor"}  # these come first
READ_ALONE = "after its attention only the class token is read, so any other may leave before its MLP"
PERHAPS = "where only the class token is read after its attention, any other may leave before its MLP"
LEAST_PATCHES = 2


def steps_table(written: Written) -> Table:
    table = Table("The plan", ["after block", "method", "tokens left", "of"], numeric=(0, 2, 3))
    now = written.plan.model.tokens
    for step in written.plan.steps:
        table.rows.append([str(step.block + 1), step_text(step), str(step.tokens), str(now)])
        now = step.tokens
    return table


def last_block(written: Written) -> str:
    """Why a plan may leave next to nothing in the last block; empty where it does not reduce there."""
    model, steps = written.plan.model, written.plan.steps
    alone = None if written.verdict is None else written.verdict.class_token_only
    if not steps or steps[-1].block != model.depth - 1 or written.outputs == "masks" or not model.prefix:
        return ""
    if alone is False or model.kwargs.get("global_pool", "token") != "token":
        return ""
    least = steps[-1].tokens == model.prefix + LEAST_PATCHES
    kept = f"; {LEAST_PATCHES} patches stay because a plan always keeps as many" if least else ""
    return f"Block {model.depth} is the last: {READ_ALONE if alone else PERHAPS}{kept}."


@dataclass(frozen=True)
class Stair:
    """One block of the token staircase; blocks are counted from 1."""

    block: int
    tokens: int
    height: float  # percent of the start
    reduces: bool


def staircase(written: Written) -> list[Stair]:
    schedule = written.plan.schedule
    cuts = schedule.cuts
    return [Stair(i + 1, n, round(100 * n / schedule.start, 2), i in cuts) for i, n in enumerate(schedule.after)]


def latency_table(written: Written) -> Table | None:
    """Of the final check alone, or of the search where there was none; percentiles only where n allows."""
    rows, limits = written.proven("latency"), (written.most_ms,)
    if not rows:
        return None
    table = Table(
        "Latencies", ["build", "runtime", "batch", "threads", "p50, ms", "p90, ms", "p99, ms", "n"],
        numeric=(2, 3, 4, 5, 6, 7),
    )  # fmt: skip
    timings = {ROLES[role]: found for role, found in written.timings.items()}
    names = {ROLES[role]: name for role, name in NAMES.items()}
    for r in rows:
        role = str(r.tags.get("plan"))
        p50, p99, n = r.value, as_float(r.tags.get("p99")), r.n
        if (found := timings.get(role)) is not None:
            p50, p99, n = found.p50, found.p99, found.n or None
        if role == ROLES["plan"]:
            table.marked.add(len(table.rows))
        p90 = as_float(r.tags.get("p90")) if n == r.n else None  # of another sample otherwise
        table.rows.append(
            [
                names.get(role, role), _build(r), text(r.tags.get("batch")),
                text(r.tags.get("threads", r.origin.get("threads"))), number(p50, limits=limits),
                number(p90, limits=limits), number(p99, limits=limits), NONE if n is None else f"{n:,}",
            ]
        )  # fmt: skip
    return table


def _build(r: Result) -> str:
    return f"{text(r.tags.get('runtime'))} {r.tags.get('precision') or ''}".strip() + _on(r)


def _on(r: Result) -> str:
    device = r.tags.get("device")
    return "" if device in (None, "", "cpu") else f" on {device}"


def speed_table(written: Written) -> Table | None:
    """All speed-ups of the final check, where there are more than the one in the head of the page."""
    rows = written.proven("speedup")
    if len(rows) < 2:
        return None
    table = Table("Speed-ups", ["plan", "against", "runtime", "batch", "speed-up", "low", "high", "n"])
    table.numeric = (3, 4, 5, 6, 7)
    for r in rows:
        table.rows.append(
            [text(r.tags.get("plan")), text(r.tags.get("baseline")), _build(r), text(r.tags.get("batch")),
             *bounded(r.value, r.low, r.high, 2, limits=(1.0,)), NONE if r.n is None else f"{r.n:,}"]
        )  # fmt: skip
    return table


def runtime_table(written: Written) -> Table | None:
    """The dense model wherever it runs, what a precision costs, and why the others were not tried."""
    rows = written.find("runtime")
    if not rows:
        return None
    costs = any(as_float(r.tags.get("drop")) is not None for r in rows)
    head = ["runtime", "precision", "dense, ms", f"{written.kind.agreement} as torch"]
    table = Table(
        "Dense model in every runtime", [*head, *(["points lost"] if costs else []), "remarks"],
        numeric=(2, 3, 4) if costs else (2, 3),
    )  # fmt: skip
    rows.sort(key=lambda r: (not _available(r), r.value if _available(r) else 0.0))
    allowed = None if written.budget is None else written.budget.points
    for r in rows:
        chosen, reason = bool(r.tags.get("chosen")), r.tags.get("reason")
        if chosen:
            table.marked.add(len(table.rows))
        same, lost = as_float(r.tags.get("agreement", r.tags.get("agreement with torch"))), as_float(r.tags.get("drop"))
        remark = "" if _available(r) else "not available here"
        cells = [
            text(r.tags.get("runtime")) + _on(r),
            text(r.tags.get("precision")),
            number(r.value) if _available(r) else NONE,
            NONE if same is None else f"{fixed(100 * same, limits=(100.0,))} %",
        ]
        cells += [fixed(lost, limits=(allowed,))] if costs else []
        table.rows.append([*cells, joined(["chosen" if chosen else "", str(reason) if reason else remark])])
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
    target = written.plan.target
    products = [r for r in peaks if "flop" in r.unit.lower()]
    same = [r for r in products if target.precision in (r.tags.get("precision"), *str(r.tags.get("what")).split())]
    said = []
    for role, tag in ROLES.items():
        macs, latency = written.first("macs", plan=tag), written.timings.get(role)
        if macs is None or latency is None or not latency.p50:
            continue
        rate = 2 * macs.value * target.batch / (latency.p50 / 1e3)
        share = f", {fixed(100 * rate / same[0].value, 0)} % of the {target.precision} peak" if same else ""
        said.append(f"{'the dense build' if role == 'dense' else NAMES[role]} runs at {number(rate)} GFLOP/s{share}")
    if not said:
        return table, ""
    return table, f"{capital(' and '.join(said))} (two operations a MAC, over the median latency)."


def origins(results: Iterable[Result]) -> Table | None:
    """Every fact of origin once, devices first; where results disagree, all that they say."""
    facts: dict[str, list[str]] = {key: [] for key in FACTS}
    for r in results:
        for key, value in r.origin.items():
            said = facts.setdefault(key, [])
            if value is not None and (words := text(value)) not in said:
                said.append(words)
    rows = [[FACTS.get(key, key.replace("_", " ")), "; ".join(said[:4])] for key, said in facts.items() if said]
    return Table("Where it was measured", ["fact", "value"], rows) if rows else None

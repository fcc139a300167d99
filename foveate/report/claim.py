"""The first screen: how much faster, what it cost, whether the budget is kept, and what to do next."""

from dataclasses import dataclass
from math import isfinite

from foveate.report.cost import Cost, cost_of, evidence_of_cost
from foveate.report.read import NAMES, Written
from foveate.report.words import Table, bounded, capital, level_text, number, sentence
from foveate.written import SpeedUp

BASELINE = "the best dense build on this machine"
UNPROVEN = "The interval does not exclude 1: this speed-up is not proven."


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
class BudgetWords:
    """What was asked for and what became of it; `outcome` is a class of the style sheet."""

    outcome: str
    text: str
    said: str
    needed: str  # what it would take to show it


@dataclass(frozen=True)
class Claim:
    """A big figure or words, what stands behind it, what it cost, and the rest of the first screen."""

    faster: bool
    big: str
    tail: str
    proof: str
    cost: Cost | None
    evidence: str
    strip: Strip | None
    speeds: Table | None
    budget: BudgetWords | None
    warnings: tuple[str, ...]
    next: tuple[str, ...]


def claim(written: Written) -> Claim:
    verdict, speedup = written.verdict, written.speedup
    warnings = list(() if verdict is None else verdict.warnings)
    big, tail, proof, drawn = "", "Dense stays", "", None
    if written.faster and speedup is not None and isfinite(speedup.value):
        big, tail, proof, drawn = *_faster(written, speedup), _strip(written, speedup)
        if speedup.low <= 1:
            warnings.insert(0, UNPROVEN)
    elif written.faster:
        tail = "Faster, by an amount this folder does not tell"
    else:
        dense = written.timings.get("dense")
        speed = "" if dense is None else f" at {number(dense.p50, limits=(written.most_ms,))} ms"
        proof = f"{capital(_baseline(written))} is what stands in this folder: {_where(written)}{speed}."
    shown = written.faster and not written.random_weights and written.cost is not None
    allowed = None if written.budget is None else written.budget.points
    return Claim(
        faster=written.faster,
        big=big,
        tail=tail,
        proof=proof,
        cost=cost_of(written.cost, written.kind, allowed) if shown and written.cost is not None else None,
        evidence=evidence_of_cost(written) if shown else "",
        strip=drawn,
        speeds=_speeds(written),
        budget=_budget(written),
        warnings=tuple(sentence(w) for w in warnings),
        next=() if verdict is None else verdict.next,
    )


def _faster(written: Written, s: SpeedUp) -> tuple[str, str, str]:
    big, low, high = _ratios(written, s)
    level = f"{level_text(s.level)} interval" if s.level else "Interval"
    pairs = f" over {s.n:,} paired runs" if s.n else ""
    return big, "faster", f"than {_baseline(written)} ({_where(written)}). {level} {low} to {high}{pairs}."


def _ratios(written: Written, s: SpeedUp) -> tuple[str, str, str]:
    asked = None if written.budget is None else written.budget.speedup
    return bounded(s.value, s.low, s.high, 2, limits=(1.0, asked))


def _baseline(written: Written) -> str:
    return BASELINE if written.verdict is None else written.verdict.baseline


def _where(written: Written) -> str:
    target = written.plan.target
    threads = "" if target.threads is None else f", {target.threads} thread{'s' if target.threads > 1 else ''}"
    return f"{target}{threads}"


def _strip(written: Written, s: SpeedUp) -> Strip | None:
    if not (isfinite(s.low) and isfinite(s.high)):
        return None
    left, right = min(1.0, s.low), max(1.0, s.high)
    pad = 0.08 * (right - left) or 0.1
    at = lambda v: round(100 * (v - left + pad) / (right - left + 2 * pad), 2)
    value, low, high = _ratios(written, s)
    label = f"Speed-up {value}, interval {low} to {high}, drawn against 1, the dense build"
    return Strip(at(1.0), at(s.low), at(s.value), at(s.high), low, high, label)


def _speeds(written: Written) -> Table | None:
    """Milliseconds of both builds, from the same pairs."""
    rows = written.timings
    if not rows:
        return None
    # A folder of a former version holds samples of several stages.
    paired = len(rows) > 1 and written.verdict is not None
    title = "Latency of a call, both builds from the same pairs" if paired else "Latency of a call"
    table = Table(title, ["build", "median, ms", "p99, ms", "runs"], numeric=(1, 2, 3))
    for role, name in NAMES.items():
        if role in rows:
            found, limits = rows[role], (written.most_ms,)
            cells = [number(found.p50, limits=limits), number(found.p99, limits=limits), f"{found.n:,}"]
            table.rows.append([name, *cells])
    return table


def _budget(written: Written) -> BudgetWords | None:
    kept = written.budget
    if kept is None:
        return None
    needed = ""
    cost = None if written.verdict is None else written.verdict.cost
    there = 0 if cost is None or cost.n is None else cost.n
    if kept.outcome == "observed" and kept.needed is not None and there < kept.needed:
        thing = written.kind.things.removesuffix("s")
        needed = f"To show it takes at least {kept.needed:,} unseen photographs with no {thing} changed."
    return BudgetWords(kept.outcome, kept.text, sentence(kept.said), needed)

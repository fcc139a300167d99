"""The ladder: the best dense build in full precision, the best in any, and the plan, with what each costs."""

from dataclasses import dataclass

from foveate.report.cost import cost_of
from foveate.report.read import Written
from foveate.report.words import bounded, fixed, number

ROLES = {"full": "Best in full precision", "int8": "Best in int8", "any": "Best of any precision", "plan": "The plan"}


@dataclass(frozen=True)
class Step:
    """A rung as text; `width` is its bar in percent of the slowest one's."""

    role: str
    build: str
    plan: str
    ms: str
    share: str
    width: float
    cost: str
    evidence: str
    chosen: bool


def ladder(written: Written) -> list[Step]:
    """Empty where the verdict has none."""
    if written.verdict is None or not written.verdict.ladder:
        return []
    rungs, told = written.verdict.ladder, not written.random_weights
    slowest = max(r.latency_ms for r in rungs) or 1.0
    allowed = None if written.budget is None else written.budget.points
    steps = []
    for r in rungs:
        cost = None if r.cost is None or not told else cost_of(r.cost, written.kind, allowed)
        same = "" if r.agreement is None or not told else f"{written.kind.agreement} {fixed(r.agreement)} %"
        n = "" if cost is None or r.cost is None or r.cost.n is None else f"n = {r.cost.n:,}"
        steps.append(
            Step(
                role=ROLES[r.role],
                build=f"{r.runtime} {r.precision}",
                plan="" if r.plan == "dense" else r.plan,
                ms=number(r.latency_ms, limits=(written.most_ms,)),
                share="" if r is rungs[0] else bounded(r.share, None, None, 2, limits=(1.0,))[0],
                width=round(100 * r.latency_ms / slowest, 2),
                cost="" if cost is None else str(cost),
                evidence=", ".join(p for p in ("" if cost is None else cost.bracket, n, same) if p),
                chosen=r is rungs[-1],
            )
        )
    return steps

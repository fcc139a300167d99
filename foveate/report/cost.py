"""What a build lost, in the words of its kind of output, with the evidence for it."""

from dataclasses import dataclass

from foveate.report.kinds import Kind
from foveate.report.read import Written
from foveate.report.words import between, bounded, fixed, level_text, number
from foveate.written import Value

WHERE = {
    "unseen": "photographs the planner did not see",
    "confirm": "photographs held out of the search",
    "search": "photographs the planner searched on",
}


@dataclass(frozen=True)
class Cost:
    figure: str  # "0.4", "2.4 %"
    words: str  # "points of top-1 lost", "of answers changed"
    interval: str  # "-0.8 to 1.6", "0.7 to 8.3 %", or empty
    level: str  # "95 %", or empty

    def __str__(self) -> str:
        return f"{self.figure} {self.words}"

    @property
    def bracket(self) -> str:
        """`95 % interval 0.7 to 8.3 %`, or empty."""
        return f"{self.level} interval {self.interval}".strip() if self.interval else ""


def cost_of(value: Value, kind: Kind, allowed: float | None = None) -> Cost:
    """`allowed`: points that the budget allows; what is printed stays on its side of them, and of none."""
    limits, level = (0.0, allowed), "" if value.level is None else level_text(value.level)
    if value.name != "drop":
        figure, _, _ = bounded(value.value, value.low, value.high, limits=limits)
        interval = between(value.low, value.high, limits=limits)
        return Cost(f"{figure} %", f"of {kind.things} changed", interval and f"{interval} %", level)
    gained = value.value < 0
    sign = -1 if gained else 1
    ends = (value.high, value.low) if gained else (value.low, value.high)
    low, high = (None if v is None else sign * v for v in ends)
    limits = (0.0, None if allowed is None else sign * allowed)
    figure, _, _ = bounded(abs(value.value), low, high, limits=limits)
    words = f"points of {kind.score} {'gained' if gained else 'lost'}"
    return Cost(figure, words, between(low, high, limits=limits), level)


def evidence_of_cost(written: Written) -> str:
    """Interval and sample of the plan's cost, and what else tells of it."""
    value, kind = written.cost, written.kind
    if value is None:
        return ""
    cost = cost_of(value, kind, None if written.budget is None else written.budget.points)
    first = ", ".join(part for part in (cost.bracket, f"on {photographs(written, value.n)}") if part)
    said = [f"{first[:1].upper()}{first[1:]}."]
    if value.name == "drop" and (same := written.agreement) is not None:
        figure, _, _ = bounded(same.value, same.low, same.high, limits=(100.0,))
        interval = between(same.low, same.high, limits=(100.0,))
        level = "" if same.level is None else f"{level_text(same.level)} "
        bracket = f" ({level}interval {interval} %)" if interval else ""
        said.append(f"{kind.same.format(f'{figure} %{bracket}')}.")
    return " ".join([*said, *_distance(written)])


def _distance(written: Written) -> list[str]:
    """How far outputs moved: by cosines where there are any, which say more than their distance from 1."""
    cosine, worst = (written.loss(name, plan="chosen") for name in ("cosine", "worst_cosine"))
    if cosine is not None:
        rest = "" if worst is None else f", the worst {fixed(worst.value, 3, limits=(1.0,))}"
        return [f"The mean cosine to the dense model is {fixed(cosine.value, 3, limits=(1.0,))}{rest}."]
    kind, distance = written.kind, written.loss(written.kind.distance_result, plan="chosen")
    return [] if distance is None else [f"{kind.distance} to it {number(distance.value)} {kind.unit}".rstrip() + "."]


def photographs(written: Written, n: int | None) -> str:
    """`84 photographs the planner did not see`."""
    row = written.loss("drop", plan="chosen") or written.loss("agreement", plan="chosen")
    split = "unseen" if written.verdict is not None else None if row is None else row.tags.get("split")
    where = WHERE.get(str(split), "photographs")
    return where if n is None else f"{n:,} {where}"

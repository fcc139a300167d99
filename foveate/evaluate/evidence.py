"""Does a plan keep its budget? Judged by all that some photographs can say, not by the right answers alone.

Two witnesses say what a plan loses:

1. *Counted* on photographs that no search has seen: unbiased, and coarse, since few answers change at all.
2. *Foretold* by how far the outputs moved on those photographs. Each of them has a distance, and what a distance costs
   is pooled over the plans tried, on the photographs of the search. Distances like KL grow with the square of a small
   perturbation, answers change in proportion to it: with the root of the distance. Losses grow with the distance
   itself: near a tie as many answers are gained as lost, until the perturbation carries some of them past it.

Each is weighted by its precision; so is, for a classifier, what a nat is known to cost beforehand. Measured with a
ViT-Tiny and plans of four methods that lose 0.7 points and more: 31 to 74 points lost a nat on 1,000 photographs, 35 to
340 on 400 small ones, enlarged; so plans are taken to differ by as much again as they lose. What the rule lets pass and
what it refuses there: docs/budget.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from foveate.errors import InputError

_ROUNDING = 1e-5  # distances of equal outputs may come out as much below 0
_Z = 1.959964  # of a two-sided 95 % interval
_SAFE = 1.0  # standard errors that have to fit into the budget with the estimate: odds of about 5 to 1
_A_NAT = 1.0  # answers lost a nat of KL, as many again being its standard deviation: 31 to 340 points were measured
_UNLIKE = 1.0  # standard deviation, as a share, of what the same distance costs in different plans


@dataclass(frozen=True)
class Answers:
    """One build's answers against the given model's, photograph by photograph.

    Raises:
        InputError: no photographs, arrays of unequal length, a value outside of its range.
    """

    distance: np.ndarray  # [S] >= 0, but for rounding: KL in nats, 1 - cosine
    changed: np.ndarray  # [S] 0..1: share of the answer that is another
    lost: np.ndarray | None = None  # [S] -1..1: right of the given model minus right of the build; None without labels
    counted: str | None = None  # what a budget counts, in words; else "points lost" or "% of answers changed"
    nats: bool = False  # the distance is KL between the answers of a classifier, whose cost is roughly known beforehand

    def __post_init__(self) -> None:
        for name, low, high in (("distance", -_ROUNDING, math.inf), ("changed", 0.0, 1.0), ("lost", -1.0, 1.0)):
            values = getattr(self, name)
            if values is None:
                continue
            if np.shape(values) != (len(self),) or not len(self):
                raise InputError(f"{name} of shape {np.shape(values)}; allowed: ({len(self)},), at least 1")
            if not (np.isfinite(values).all() and low <= np.min(values) and np.max(values) <= high):
                raise InputError(f"{name} from {np.min(values)} to {np.max(values)}; allowed: {low:g} to {high:g}")

    def __len__(self) -> int:
        return len(self.distance)


@dataclass(frozen=True)
class Kept:
    """Whether a budget is kept, and how well that is known."""

    outcome: Literal["shown", "observed", "broken"]
    said: str  # one sentence, with its figures
    estimate: float  # points lost, by both witnesses; without labels, % of the answers that changed
    low: float  # 95 % interval of the estimate
    high: float
    n: int  # unseen photographs


def photographs_needed(points: float | None) -> int | None:
    """Unseen photographs that show a budget of `points` if not one answer changes (the rule of three).

    With so many, a plan that changes `points` % of the answers would have changed none of these in 5 of 100 cases.
    None without a cap, and for one of 0 points or 100 and more: no number shows that nothing is lost.
    """
    if points is None or not 0 < points < 100:
        return None
    return math.ceil(math.log(0.05) / math.log1p(-points / 100))


def judge_budget(
    points: float | None,
    unseen: Answers,
    search: Answers | None = None,
    pool: Sequence[Answers] = (),
) -> Kept:
    """Whether a plan loses at most `points`, by what is counted and by what its distance foretells.

    *broken*: the estimate and one standard error exceed the budget, or what is counted does so by itself, all of its
    95 % interval. *shown*: the upper end of the estimate's 95 % interval is within the budget, what is counted is as
    well, and there are at least `photographs_needed`. *observed*: neither. A budget of 0 is judged by the count alone,
    without an error: what a distance foretells is never 0.

    The plan was chosen on the photographs of the search, which flatter it; there it is one among the pool, no more.
    Several plans may be put to the same unseen photographs until one holds; that is not paid for here, but is part of
    what was measured.

    Args:
        points: percentage points; None where nothing is capped, which is *observed*: there is nothing to show.
        unseen: photographs that no search has seen.
        search, pool: this plan and the others tried, all on the same photographs of the search.

    Raises:
        InputError: a negative budget, or plans on unequal numbers of photographs of the search.
    """
    if points is not None and not points >= 0:
        raise InputError(f"the budget is {points:g} points; allowed: 0 or more")
    labelled = unseen.lost is not None
    tried = [a for a in [*([] if search is None else [search]), *pool] if not labelled or a.lost is not None]
    if len(sizes := {len(a) for a in tried}) > 1:
        raise InputError(f"plans on {sorted(sizes)} photographs of the search; allowed: the same for all")
    counted, foretold = _counted(unseen, tried), _foretold(unseen, tried)
    both = counted if foretold is None or points == 0 else _weighted(counted, foretold)
    n, needed, plain = len(unseen), photographs_needed(points), 100 * counted.value
    value, error = 100 * both.value, 100 * math.sqrt(both.variance)
    low, high = max(-100.0, value - _Z * error), min(100.0, value + _Z * error)
    if error == 0:  # nothing was ever lost or gained: the rule of three
        high = max(high, 100 * -math.expm1(math.log(0.05) / n))
    reach = value + (0 if points == 0 else _SAFE * error)
    outcome = "observed"
    if points is not None and (reach > points or plain - 100 * _Z * math.sqrt(counted.variance) > points):
        outcome = "broken"
    elif points is not None and needed is not None and n >= needed and high <= points and plain <= points:
        outcome = "shown"
    figures = tuple(beside(v, points) for v in (value, reach, low, high, plain))
    what = unseen.counted or ("points lost" if labelled else "% of answers changed")
    return Kept(outcome, _said(outcome, points, what, figures, n), value, low, high, n)


def likely_kept(
    points: float, *, distance: float, expected: float, unseen: int, tried: Sequence[Answers], labelled: bool
) -> float:
    """How likely `judge_budget` keeps a plan that is not built yet, on `unseen` photographs.

    What it loses is its distance times a rate: the one that the search expects of it and the one at which the plans
    tried lost, averaged by their precision. The error that has to fit into the budget with it is what so many
    photographs leave.

    Args:
        distance: mean of the plan's, as the search found it.
        expected: points that the search expects to be lost.
        tried: the plans built so far, on the same photographs of the search.
        labelled: right answers are counted, not changed ones.
    """
    root = math.sqrt(max(0.0, distance))
    own = max(1e-12, distance if labelled else root)
    rate = max(1e-12, expected / 100 / own)
    spread = (_UNLIKE * rate) ** 2  # plans differ, in what a distance costs, by as much as it costs
    variance = spread
    if tried:
        costs, moved = [_cost(a, labelled) for a in tried], [_moved(a, labelled) for a in tried]
        total = max(1e-12, sum(float(m.mean()) for m in moved))
        seen = sum(float(c.mean()) for c in costs) / total
        of_seen = _variance(np.stack(costs).sum(0) - seen * np.stack(moved).sum(0)) / total**2 + spread / len(tried)
        rate = max(0.0, (rate * of_seen + seen * spread) / (spread + of_seen))
        variance = spread * of_seen / (spread + of_seen)
    value = rate * own
    squares = sum(float(np.square(_cost(a, labelled)).mean()) for a in tried) + expected / 100
    roots = max(1e-12, sum(float(_root(a).mean()) for a in tried) + root)
    counted = squares / roots * root / unseen
    foretold = own**2 * variance + (_UNLIKE * value) ** 2
    error = math.sqrt(counted * foretold / max(1e-300, counted + foretold))
    room = points / 100 - _SAFE * error - value
    return NormalDist().cdf(room / max(1e-9, math.hypot(_UNLIKE * value, error / 2)))


@dataclass(frozen=True)
class _Witness:
    value: float  # a share of the photographs, not points
    variance: float


def _cost(a: Answers, labelled: bool) -> np.ndarray:
    return np.asarray(a.lost if labelled else a.changed, dtype=np.float64)


def _counted(unseen: Answers, tried: Sequence[Answers]) -> _Witness:
    """The plain mean; its variance is the photographs' own, or what the other plans make likely where that is more."""
    labelled = unseen.lost is not None
    y, n = _cost(unseen, labelled), len(unseen)
    square = float(np.square(y).mean())
    if tried:
        # Answers change in proportion to the mean root of the distance, so those lost or gained do.
        others = sum(float(np.square(_cost(a, labelled)).mean()) for a in tried)
        roots = max(1e-12, sum(float(_root(a).mean()) for a in tried))
        square = max(square, others / roots * float(_root(unseen).mean()))
    return _Witness(float(y.mean()), square / n)


def _foretold(unseen: Answers, tried: Sequence[Answers]) -> _Witness | None:
    """What the distance on unseen photographs costs, at the rate of the plans about as far off.

    Where those lost nothing, at the rate of all; None where no plan lost or gained anything. What a nat costs is known
    about beforehand, from other models, and is averaged with it.
    """
    labelled = unseen.lost is not None
    some = [a for a in tried if _cost(a, labelled).any()]
    able = [a for a in tried if _alike(unseen, a)] if any(_alike(unseen, a) for a in some) else tried
    known = labelled and unseen.nats
    x = _moved(unseen, labelled)
    if not some and not known:
        return None
    if not tried:
        mean = float(x.mean())
        return _Witness(_A_NAT * mean, 2 * (_A_NAT * mean) ** 2 + _A_NAT**2 * _variance(x))
    moved = np.stack([_moved(a, labelled) for a in able]).sum(0)  # [S]
    cost = np.stack([_cost(a, labelled) for a in able]).sum(0)
    total = max(1e-12, float(moved.mean()))
    rate = float(cost.mean()) / total
    # Plans err on the same photographs: photographs are what is independent, not plans.
    of_rate = _variance(cost - rate * moved) / total**2
    if known:  # averaged by precision with what is known of other models: it decides where photographs are few
        of_rate = max(of_rate, (1 / len(cost) / total) ** 2)  # one more answer might have been lost
        rate = (rate * _A_NAT**2 + _A_NAT * of_rate) / (_A_NAT**2 + of_rate)
        of_rate = of_rate * _A_NAT**2 / (_A_NAT**2 + of_rate)
    rate = max(0.0, rate)
    mean = float(x.mean())
    return _Witness(rate * mean, mean**2 * of_rate + rate**2 * _variance(x) + (_UNLIKE * rate * mean) ** 2)


def _moved(a: Answers, labelled: bool) -> np.ndarray:
    """[S], what the cost is proportional to."""
    return np.asarray(a.distance, dtype=np.float64) if labelled else _root(a)


def _root(a: Answers) -> np.ndarray:
    return np.sqrt(np.maximum(a.distance, 0.0))


def _alike(a: Answers, b: Answers) -> bool:
    """Are their mean distances within tenfold of each other? A proportion is trusted no further."""
    one, other = float(np.mean(a.distance)), float(np.mean(b.distance))
    return one <= 10 * other and other <= 10 * one


def _variance(values: np.ndarray) -> float:
    """Of the mean."""
    return float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 1.0


def _weighted(a: _Witness, b: _Witness) -> _Witness:
    share = b.variance / max(1e-300, a.variance + b.variance)
    return _Witness(share * a.value + (1 - share) * b.value, share * a.variance)


def _said(outcome: str, points: float | None, what: str, figures: tuple[str, ...], n: int) -> str:
    value, reach, low, high, plain = figures
    more = f"95 % interval {low} to {high}; {plain} counted on {n} unseen photographs"
    if points is None:
        return f"nothing was capped: about {value} {what} ({more})"
    begin = {
        "shown": f"kept, shown on {n} photographs",
        "observed": f"kept as far as these {n} photographs can tell",
        "broken": "broken",
    }[outcome]
    return f"{begin}: about {value} {what}, {reach} with a standard error added, of at most {points:g} ({more})"


def beside(value: float, bound: float | None = None) -> str:
    """A figure with one decimal, or with as many as keep it on its side of the bound: 1.04 of 1, not "1.0 of 1"."""
    if bound is None or value == bound:
        return f"{value + 0.0:.1f}" if bound is None else f"{value:g}"
    for digits in range(1, 17):
        text = f"{value:.{digits}f}".removeprefix("-" if round(value, digits) == 0 else " ")
        if float(text) != bound and (float(text) < bound) == (value < bound):
            return text
    return repr(value)

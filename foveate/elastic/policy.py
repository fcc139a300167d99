"""Policies: from what the moment asks for to an operating point. Pure functions of a frontier and a demand.

A policy holds no clock and no counter; whoever asks measures, and asks again for the next call.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from foveate.elastic.frontier import Frontier
from foveate.errors import InputError


@dataclass(frozen=True)
class Demand:
    """What the next call is asked to do."""

    waited_ms: Sequence[
        float
    ] = ()  # by those who wait, the oldest first; the next call takes the first `batch` of them
    slowdown: float = 1.0  # of calls lately, over the frontier's latencies: other load, heat
    charge: float | None = None  # of the battery, 0 to 1
    rate: float | None = None  # images a second that are to be answered


class Policy(ABC):
    """Abstract; policies are final."""

    @abstractmethod
    def choose(self, frontier: Frontier, demand: Demand) -> int:
        """The index of an operating point."""

    def again(self, frontier: Frontier, index: int, confidence: float) -> int | None:
        """After an answer at `index` with such a share for its likeliest class: a point to ask again at, or None."""
        return None


@final
@dataclass(frozen=True)
class Fixed(Policy):
    """Always the same point; by default the whole model."""

    index: int = 0

    def choose(self, frontier: Frontier, demand: Demand) -> int:
        if not 0 <= self.index < len(frontier):
            raise InputError(f"operating point is {self.index}; allowed: 0 to {frontier.fastest}")
        return self.index


@final
@dataclass(frozen=True)
class Deadline(Policy):
    """The best point at which everyone who waits now is answered within the objective; the fastest where none is.

    Calls are made one after the other, so who stands behind k calls waits for all of them at the point chosen.
    """

    slo_ms: float  # a request's whole time in the server
    margin: float = 0.8  # share of it that is planned with; the rest is for what comes meanwhile

    def __post_init__(self) -> None:
        if not self.slo_ms > 0:
            raise InputError(f"slo is {self.slo_ms:g} ms; allowed: above 0")
        if not 0 < self.margin <= 1:
            raise InputError(f"margin is {self.margin:g}; allowed: above 0 to 1")

    def choose(self, frontier: Frontier, demand: Demand) -> int:
        aim, batch, allowed = self.slo_ms * self.margin, frontier.target.batch, float("inf")
        for i, waited in enumerate(demand.waited_ms):
            allowed = min(allowed, (aim - waited) / (i // batch + 1))
        able = [i for i, p in enumerate(frontier.points) if p.latency_ms * demand.slowdown <= allowed]
        if not able:
            return frontier.fastest
        return max(able, key=lambda i: (frontier.points[i].quality, -frontier.points[i].latency_ms))


@final
@dataclass(frozen=True)
class Battery(Policy):
    """The whole model from `high` charge on, the least energy below `low`, between them in proportion."""

    low: float = 0.2
    high: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise InputError(f"battery from {self.low:g} to {self.high:g}; allowed: 0 to 1, rising")

    def choose(self, frontier: Frontier, demand: Demand) -> int:
        if demand.charge is None:
            raise InputError("a battery policy needs its charge, 0 to 1")
        share = min(1.0, max(0.0, (demand.charge - self.low) / (self.high - self.low)))
        if share == 1:
            return 0
        costs = [p.energy_mj for p in frontier.points]
        return frontier.within_mj(min(costs) + share * (max(costs) - min(costs)))


@final
@dataclass(frozen=True)
class Power(Policy):
    """The best point that keeps within so many watts at the demanded rate; the least energy where none does.

    Energy is the frontier's: where that is modelled, so is what this keeps.
    """

    watts: float

    def __post_init__(self) -> None:
        if not self.watts > 0:
            raise InputError(f"power is {self.watts:g} W; allowed: above 0")

    def choose(self, frontier: Frontier, demand: Demand) -> int:
        if demand.rate is None:
            raise InputError("a power policy needs the rate of images a second")
        least = min(p.energy_mj for p in frontier.points)
        return frontier.within_mj(max(least, 1e3 * self.watts / demand.rate if demand.rate > 0 else float("inf")))


@final
@dataclass(frozen=True)
class Confident(Policy):
    """The fastest point first; who is not sure is asked again by the whole model (a cascade, as DVT's and CF-ViT's).

    Those exit inside one pass; a deployed file has no exits, so here the second pass starts anew.
    """

    sure: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.sure <= 1:
            raise InputError(f"sure is {self.sure:g}; allowed: 0 to 1")

    def choose(self, frontier: Frontier, demand: Demand) -> int:
        return frontier.fastest

    def again(self, frontier: Frontier, index: int, confidence: float) -> int | None:
        return 0 if index != 0 and confidence < self.sure else None

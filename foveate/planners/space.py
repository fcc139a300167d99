"""What a planner may choose from, and the two figures it judges a choice by."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from foveate.errors import InputError
from foveate.plans import Step
from foveate.schedule import Schedule

Steps = tuple[Step, ...]
Key = tuple[tuple[object, ...], ...]


def key_of(steps: Iterable[Step]) -> Key:
    """Steps as a dictionary key, options included."""
    return tuple((s.block, s.method, s.tokens, *sorted(s.options.items())) for s in steps)


class Scored(NamedTuple):
    """A choice of steps, its predicted latency and its loss (additive prediction or exact, as the caller says)."""

    steps: Steps
    ms: float
    loss: float


@dataclass(frozen=True)
class Space:
    """The steps allowed: which blocks, which counts to land on, which methods."""

    start: int  # tokens that enter block 0, prefix included
    depth: int
    prefix: int
    blocks: tuple[int, ...]
    counts: tuple[int, ...]  # ascending, prefix included, all below start
    methods: tuple[str, ...]
    max_drop: Mapping[str, float] = field(default_factory=dict)  # by method: largest share of patches one step removes
    options: Mapping[str, Mapping[str, bool | int | float | str]] = field(default_factory=dict)  # by method

    def __post_init__(self) -> None:
        if not self.methods or not self.blocks:
            raise InputError("a search needs at least one method and one block")
        if any(not self.prefix + 2 <= n < self.start for n in self.counts):
            raise InputError(f"counts must lie in {self.prefix + 2} .. {self.start - 1}; got {list(self.counts)}")

    def allows(self, method: str, n: int, m: int) -> bool:
        """Can `method` take n tokens to m in one step?"""
        patches = n - self.prefix
        return self.prefix + 2 <= m < n and n - m <= int(patches * self.max_drop.get(method, 1.0))

    def step(self, block: int, method: str, tokens: int) -> Step:
        return Step(block=block, method=method, tokens=tokens, options=dict(self.options.get(method, {})))

    def valid(self, steps: Steps) -> bool:
        """Every step in an allowed block, blocks ascending, every count strictly below the last and within reach."""
        now, last = self.start, -1
        for s in steps:
            if s.block <= last or s.block not in self.blocks or not self.allows(s.method, now, s.tokens):
                return False
            now, last = s.tokens, s.block
        return True

    def schedule(self, steps: Steps) -> Schedule:
        return Schedule.cut(self.start, self.depth, {s.block: s.tokens for s in steps}, self.prefix)


class Sensitivity(BaseModel):
    """Loss of a single reduction of the dense model, measured at some blocks, methods and counts.

    Between counts the square root of the loss is interpolated, since a divergence grows with the square of a small
    disturbance; it is made to never fall with fewer tokens. Loss adds up along a path: taking n tokens to m in a block
    costs what one cut to m there costs beyond one to n.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: int
    loss: dict[int, dict[str, dict[int, float]]]  # block -> method -> tokens left -> loss

    def knows(self, block: int, method: str) -> bool:
        return method in self.loss.get(block, {})

    def at(self, block: int, method: str, tokens: int) -> float:
        """Loss of one cut to `tokens` in `block`. Below the lowest measured count its last slope goes on.

        A method that was not measured in this block is taken for as bad as the worst that was.
        """
        if method not in self.loss[block]:
            return max(self.at(block, m, tokens) for m in self.loss[block])
        known = self.loss[block][method]
        n = [self.start, *sorted(known, reverse=True)]
        root = [0.0]
        for count in n[1:]:
            root.append(max(root[-1], max(0.0, known[count]) ** 0.5))
        i = next((i for i in range(1, len(n)) if n[i] <= tokens), len(n) - 1)
        value = root[i - 1] + (root[i] - root[i - 1]) * (n[i - 1] - tokens) / (n[i - 1] - n[i])
        return value**2

    def step(self, block: int, method: str, n: int, m: int) -> float:
        """Additional loss of taking n tokens to m in `block`."""
        return max(0.0, self.at(block, method, m) - self.at(block, method, n))

    def total(self, steps: Sequence[Step]) -> float:
        """Predicted loss of a whole plan."""
        now, loss = self.start, 0.0
        for s in steps:
            loss += self.step(s.block, s.method, now, s.tokens)
            now = s.tokens
        return loss

"""What a token count costs on one device: measured curves in, predicted latency out.

The cost model is T = fixed + sum over blocks of attention(n) + reduce(n -> m) + (block(m) - attention(m)): a block with
a reducer runs its attention on the n tokens that enter and its MLP on the m that are left.
"""

from bisect import bisect_right
from collections.abc import Mapping
from itertools import pairwise
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from foveate.schedule import Schedule


class Curve(BaseModel):
    """Measured latencies over token counts, kept as they were seen: staircases and humps included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: list[int] = Field(min_length=1)
    ms: list[float] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.tokens) != len(self.ms):
            raise ValueError(
                f"a curve needs as many latencies as token counts; got {len(self.ms)} and {len(self.tokens)}"
            )
        if any(b <= a for a, b in pairwise(self.tokens)):
            raise ValueError("the token counts of a curve must ascend")
        return self

    def __call__(self, n: float) -> float:
        """Latency at `n` tokens, ms: linear between neighbouring points and, outside, along the outermost two."""
        if len(self.tokens) == 1:
            return self.ms[0]
        i = min(max(bisect_right(self.tokens, n), 1), len(self.tokens) - 1)
        x0, x1, y0, y1 = self.tokens[i - 1], self.tokens[i], self.ms[i - 1], self.ms[i]
        return y0 + (y1 - y0) * (n - x0) / (x1 - x0)


class ReduceCost(BaseModel):
    """Cost of one reduction of n tokens to m: what is fixed, what grows with n, and what grows with the pairs, n^2."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fixed_ms: float = 0.0
    per_token_ms: float = 0.0
    per_pair_ms: float = 0.0

    def __call__(self, n: int, m: int) -> float:
        """Latency of reducing `n` tokens to `m`, ms; nothing is paid where nothing is reduced."""
        return 0.0 if m >= n else self.fixed_ms + self.per_token_ms * n + self.per_pair_ms * n * n


class LatencyTable(BaseModel):
    """Everything the planners know of a device: one block's curve, its attention's share, and what reducing costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fixed_ms: float  # embedding and head
    block: Curve  # one whole block on n tokens
    attention: Curve  # its attention half on n tokens
    reduce: dict[str, ReduceCost] = {}  # by method

    def reduce_ms(self, method: str, n: int, m: int) -> float:
        """Cost of `method` reducing n tokens to m; one that was not measured costs as much as the dearest known."""
        if method in self.reduce:
            return self.reduce[method](n, m)
        return max((cost(n, m) for cost in self.reduce.values()), default=0.0)

    def block_ms(self, n: int, m: int, method: str | None = None) -> float:
        """A block that `n` tokens enter and `m` leave."""
        if m >= n or method is None:
            return self.block(n) if m >= n else self.attention(n) + self.block(m) - self.attention(m)
        return self.attention(n) + self.reduce_ms(method, n, m) + self.block(m) - self.attention(m)

    def predict(self, schedule: Schedule, methods: Mapping[int, str]) -> float:
        """Latency of a schedule, ms; `methods` names the method of every block that reduces."""
        blocks = zip(schedule.before, schedule.after, strict=True)
        return self.fixed_ms + sum(self.block_ms(n, m, methods.get(b)) for b, (n, m) in enumerate(blocks))

    def right_edges(self, low: int, high: int) -> list[int]:
        """Counts in [low, high] worth landing on: every larger measured count there is slower. Always holds `high`.

        On a staircase these are the last counts before each cliff; what lies in a hump never appears. Ascending.
        """
        edges, best = [high], self.block(high)
        for n in reversed([n for n in self.block.tokens if low <= n < high]):
            if self.block(n) < best:
                edges.append(n)
                best = self.block(n)
        return edges[::-1]

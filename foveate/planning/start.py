"""Where a search starts: what it may choose from, the loss of single cuts, and the first plans to score."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np

from foveate.adapters import TURN, Facts
from foveate.errors import InputError, one_of
from foveate.methods import METHODS, Merger
from foveate.planners import LatencyTable, Scored, Space, key_of
from foveate.planners.ladder import ladder
from foveate.planners.pareto import spread
from foveate.planners.pomt import cut_block
from foveate.planning.evaluator import Evaluator
from foveate.plans import Step

Steps = tuple[Step, ...]
Progress = Callable[[float, str], None]
Options = Mapping[str, Mapping[str, bool | int | float | str]]


@dataclass
class Clock:
    """Seconds left, and what a chunk of images costs."""

    seconds: float
    began: float

    @property
    def used(self) -> float:
        return time.monotonic() - self.began

    def left(self, reserve: float = 0.0) -> float:
        return self.seconds - reserve - self.used


def default_counts(table: LatencyTable, start: int, prefix: int, *, low: float = 0.12) -> tuple[int, ...]:
    """Counts worth landing on: right edges of the measured plateaus, multiples of 8, and the least possible.

    A multiple of 8 that the profile shows to be slower than some larger count is left out.
    """
    edges = set(table.right_edges(prefix + 2, start))
    floor = max(prefix + 2, round(low * start))
    for n in range(-(-floor // 8) * 8, start, 8):
        if all(table.block(n) <= table.block(m) * 1.005 for m in edges if m > n):
            edges.add(n)
    return tuple(sorted({n for n in edges if floor <= n < start} | {prefix + 2}))


def space_of(
    f: Facts,
    table: LatencyTable,
    methods: Sequence[str] | None,
    options: Options,
    counts: Sequence[int] | None,
    blocks: Sequence[int] | None,
) -> Space:
    if bad := [m for m in methods or () if m not in METHODS]:
        raise one_of("method", bad[0], METHODS)
    if f.turns:  # what comes behind the last of them may be reduced too, but a search has enough to choose from
        if other := [m for m in methods or () if m != TURN]:
            raise InputError(f"this {f.family} decides by itself which tokens go; allowed: {TURN}, not {other[0]}")
        methods, blocks = (TURN,), f.turns if blocks is None else blocks
    # Unless asked for: no lottery, and nothing whose outcome depends on an image's batch mates.
    usual = sorted((m for m in METHODS if m != "random" and METHODS[m].per_image), key=_merging_first)
    able = [m for m in methods or usual if f.has_class_token or "class_row" not in METHODS[m].needs]
    if not able:
        raise InputError(f"methods {', '.join(methods or ())} need a class token, which this {f.family} has not")
    chosen = default_counts(table, f.tokens, f.prefix) if counts is None else tuple(sorted(set(counts)))
    # The first sixth is left alone: cutting there is ruinous. The last block is not: its MLP is often for nothing.
    blocks = tuple(range(max(1, f.depth // 6), f.depth)) if blocks is None else tuple(sorted(set(blocks)))
    limits = {m: METHODS[m].max_drop for m in able}
    space = Space(f.tokens, f.depth, f.prefix, blocks, chosen, tuple(able), limits, dict(options))
    if counts is None and any(not any(space.allows(m, f.tokens, c) for c in chosen) for m in able):
        # Of few tokens the curve may find only counts worth having that a method cannot reach at once.
        shares = (f.prefix + round(share * (f.tokens - f.prefix)) for share in (0.75, 0.5))
        more = {n for n in shares if f.prefix + 2 <= n < f.tokens}
        space = replace(space, counts=tuple(sorted({*chosen, *more})))
    return space


def _merging_first(method: str) -> tuple[bool, bool, str]:
    """Order of trying, for when time is short: mergers, and among them ours, have lost least so far."""
    cls = METHODS[method]
    return not issubclass(cls, Merger), cls.published, method


def coarse(space: Space, most: int = 32) -> Space:
    """The same with at most `most` counts, evenly taken, the least kept: enough for dynamic programming."""
    counts = space.counts
    if len(counts) > most:
        counts = tuple(counts[i] for i in sorted({round(x) for x in np.linspace(0, len(counts) - 1, most)}))
    return replace(space, counts=counts)


def single_losses(
    evaluator: Evaluator,
    space: Space,
    search: list[int],
    clock: Clock,
    seconds: float,
    chunk_seconds: float,
    tell: Progress,
) -> dict[int, dict[str, dict[int, float]]]:
    """Loss of single cuts. Methods are first tried in two places; the best three there are measured in every block."""
    began = clock.used
    n = space.start - space.prefix

    def at(share: float, method: str) -> int:
        """The count nearest to this share of the patches that the method reaches in one step; 0 if it reaches none."""
        able = [c for c in space.counts if space.allows(method, space.start, c)]
        return min(able, key=lambda c: abs(c - space.prefix - share * n), default=0)

    out: dict[int, dict[str, dict[int, float]]] = {}

    def measure(block: int, method: str, count: int, chunks: list[int]) -> float:
        found = float(evaluator.score((space.step(block, method, count),), chunks).distance.mean())
        tell(min(0.95, clock.used / clock.seconds), f"sensitivity of block {block + 1} to {method}")
        return found

    tries = sorted({min(space.blocks, key=lambda b: abs(b - share * space.depth)) for share in (0.3, 0.65)})
    first = search[:1]
    rank: dict[str, float] = {}
    for method in space.methods:
        if not (count := at(0.75, method)):
            continue
        # Roots and logarithms, because a few images hold most of a mean loss, and early blocks most of a sum.
        scores = [evaluator.score((space.step(b, method, count),), first) for b in tries]
        rank[method] = sum(float(np.log((s.distance**0.5).mean() + 1e-9)) for s in scores)
        tell(min(0.95, clock.used / clock.seconds), f"trying {method}")
        if clock.used - began > 0.5 * seconds:
            break
    best = sorted(rank, key=lambda m: rank[m])[:2]
    if not best:
        raise InputError(
            f"none of {', '.join(space.methods)} reaches any of the counts {list(space.counts)} in one step"
        )
    jobs = [[(share, m, b) for m in best for b in space.blocks] for share in (0.75, 0.5, 0.3)]
    # Near the end almost nothing has to be left; where a merger stops at half, one that can go further is needed.
    far = [m for m in sorted(space.methods, key=lambda m: rank.get(m, np.inf)) if space.max_drop.get(m, 1.0) == 1][:1]
    late = [b for b in space.blocks if b >= 0.75 * space.depth]
    queue = [*jobs[0], *[(share, m, b) for share in (0.0, 0.3) for m in far for b in late], *jobs[1], *jobs[2]]
    chunks = first
    if clock.seconds < float("inf"):
        for k in range(2, len(search) + 1):
            if len(queue) * 0.5 * chunk_seconds * k < seconds - (clock.used - began):
                chunks = search[:k]
    for done, (share, method, block) in enumerate(queue):
        # One count for every block with the best method is the least that can be planned with.
        if done >= len(space.blocks) and clock.used - began > seconds:
            break
        count = at(share, method)
        if count and count not in (known := out.setdefault(block, {}).setdefault(method, {})):
            known[count] = measure(block, method, count, chunks)
    return dict(sorted(out.items()))


def by_merit(loss: Mapping[int, Mapping[str, Mapping[int, float]]]) -> tuple[str, ...]:
    """The methods measured: those measured in most blocks first, and of these the least lossy
    by geometric mean."""

    def merit(method: str) -> tuple[int, float]:
        here = [at[method] for at in loss.values() if method in at]
        return -len(here), float(np.mean([np.log(x + 1e-9) for at in here for x in at.values()]))

    return tuple(sorted({m for at in loss.values() for m in at}, key=merit))


def seeds_of(
    predicted: list[Scored],
    space: Space,
    table: LatencyTable,
    cap: float | None,
    dense_ms: float,
    single: Sequence[str],
    latency: Callable[[Steps], float],
) -> list[Steps]:
    """Where refinement starts: of the predicted front, steady ladders, and single cuts at POMT's block.

    One of each kind in turn, since time may end anywhere among them.
    """
    near = [s for s in predicted if (0.7 * cap <= s.ms <= 1.05 * cap if cap else s.ms >= 0.4 * dense_ms)] or predicted
    front_plans = [s.steps for s in spread(near, 6)][::-1]
    caps = [cap] if cap else [0.85 * dense_ms, 0.7 * dense_ms]
    # Of both leading methods: losses of single cuts do not tell which of them stands many small ones better.
    rungs = [(method, every) for every in (1, 2, 3) for method in space.methods[:2]]
    ladders = [ladder(space, table, method, ms=ms, every=every) for method, every in rungs for ms in caps]
    block = min(space.blocks, key=lambda b: abs(b - cut_block(space.depth)))
    singles: list[Steps] = []
    for ms in caps:
        for method in single:
            cuts = [(space.step(block, method, n),) for n in space.counts if space.allows(method, space.start, n)]
            singles += sorted((s for s in cuts if latency(s) <= ms), key=lambda s: -latency(s))[:1]
    mixed = [s for trio in zip_longest(front_plans, ladders, singles, fillvalue=()) for s in trio if s]
    return list({key_of(s): s for s in mixed}.values())

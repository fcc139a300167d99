"""From a model, images and a latency table to plans worth measuring: sensitivities, dynamic programming, refinement."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
from torch import nn

from foveate.adapters import Facts
from foveate.errors import InputError, one_of
from foveate.methods import METHODS, Merger
from foveate.planners import Archive, LatencyTable, Scored, Sensitivity, Space, front, key_of, refine
from foveate.planners.ladder import ladder
from foveate.planners.pareto import spread
from foveate.planners.pomt import cut_block
from foveate.planning.evaluator import Evaluator
from foveate.plans import Step
from foveate.schedule import Schedule, macs

Steps = tuple[Step, ...]
Progress = Callable[[float, str], None]
Options = Mapping[str, Mapping[str, bool | int | float | str]]


@dataclass(frozen=True)
class Candidate:
    """A plan with what it is expected to cost. Losses are of images that the search did not see."""

    steps: Steps
    predicted_ms: float
    speedup: float  # predicted: dense / this
    macs_ratio: float
    kl: float  # mean KL(dense || reduced), nats
    kl_low: float  # 95 % bootstrap interval over images
    kl_high: float
    agreement: float  # share of images with the dense model's top-1 class
    drop: float | None  # points of top-1 accuracy lost, with labels
    expected_drop: float  # the same smoothed over all plans tried: steadier; without labels, points of disagreement
    search_kl: float  # on the images that were searched on, so too good
    images: int  # unseen ones


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


def plan_candidates(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray | None,
    table: LatencyTable,
    *,
    methods: Sequence[str] | None = None,
    options: Options | None = None,
    max_drop: float | None = None,
    latency_ms: float | None = None,
    speedup: float | None = None,
    counts: Sequence[int] | None = None,
    blocks: Sequence[int] | None = None,
    budget_seconds: float = 45.0,
    evaluations: int | None = None,
    search_share: float = 0.5,
    cache_bytes: int = 500_000_000,
    bf16: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Candidate]:
    """The front of predicted latency and measured loss, by rising latency, densest around the budget asked for.

    The images are split: plans are chosen on the first `search_share` of a shuffle and reported on the rest, because
    the best of many looks better on the images it was chosen by than it is.

    Args:
        images, labels: [S 3 h w] float32, preprocessed; [S] class indices or None. At least 8.
        table: latencies of this model where it will run; anything in ms-like units will do, MACs too.
        methods: names to choose from; default all sensible ones that this model allows. The best two, and one
            that can drop any share, are found out first.
        max_drop, latency_ms, speedup: at most one: points of accuracy (disagreement without labels), the table's unit,
            or dense / reduced. It steers where the search looks; what misses it is still returned. Default 1 point.
        budget_seconds: kept to within an evaluation or two. Where the dense model alone would take more than a fifth of
            it, fewer images are used; `Candidate.images` says how many.
        evaluations: bound on the plans scored once sensitivities are known; the clock is then not looked at, so that
            the result depends on the seed alone.

    Raises:
        InputError: for no images, an unknown method, more than one budget, or methods that this model does not allow.
    """
    clock = Clock(budget_seconds if evaluations is None else float("inf"), time.monotonic())
    if sum(x is not None for x in (max_drop, latency_ms, speedup)) > 1:
        raise InputError("give one budget: max_drop, latency_ms or speedup")
    if len(images) < 8:
        raise InputError(f"planning needs at least 8 images; got {len(images)}")
    shown = 0.0

    def tell(share: float, text: str) -> None:
        nonlocal shown
        shown = max(shown, share)
        if progress:
            progress(shown, text)

    order = np.random.default_rng(seed).permutation(len(images))
    evaluator = Evaluator(
        model, images[order], None if labels is None else np.asarray(labels)[order],
        chunk=min(32, max(4, len(images) // 4)), cache_bytes=cache_bytes, bf16=bf16,
        seconds=None if evaluations is not None else 0.2 * budget_seconds,
        progress=lambda share: tell(0.1 * share, "dense model"),
    )  # fmt: skip
    f = evaluator.facts
    cut = min(evaluator.chunks - 1, max(1, round(search_share * evaluator.chunks)))
    search, confirm = list(range(cut)), list(range(cut, evaluator.chunks))
    chunk_seconds = clock.used / evaluator.chunks  # of the dense model: an upper bound for any plan
    # At the end the best dozen are confirmed on the other half; reduced models take about half the time.
    reserve = min(0.3 * clock.seconds, 12 * 0.5 * chunk_seconds * len(confirm))

    space = _space(f, table, methods, options or {}, counts, blocks)
    coarse = _coarse(space)
    loss = _sensitivity(evaluator, coarse, search, clock, 0.4 * (clock.left(reserve)), chunk_seconds, tell)
    sensitivity = Sensitivity(start=f.tokens, loss=loss)
    all_methods, known = space.methods, _by_merit(loss)
    space = replace(space, blocks=tuple(loss), methods=known)
    coarse = replace(coarse, blocks=tuple(loss), methods=known)
    dense_ms = table.predict(Schedule.full(f.tokens, f.depth, f.prefix), {})

    def latency(steps: Steps) -> float:
        return table.predict(space.schedule(steps), {s.block: s.method for s in steps})

    def score(steps: Steps) -> float:
        return float(evaluator.score(steps, search).kl.mean()) if steps else 0.0

    few = search[: max(1, len(search) // 3)]

    def quick(steps: Steps) -> float:
        return float(evaluator.score(steps, few).kl.mean()) if steps else 0.0

    predicted = [s for s in front(coarse, table, sensitivity, labels=96) if s.steps]
    goal = Goal(evaluator, search, dense_ms, cap=latency_ms or (dense_ms / speedup if speedup else None), drop=max_drop)
    archive = Archive()
    archive.scored[()] = Scored((), dense_ms, 0.0)
    # POMT's own reducer is tried in its own place even where others do better.
    single = [m for m in ("pomt",) if m in all_methods] + [space.methods[0]]
    seeds = _seeds(predicted, space, table, goal, single, latency)
    total = 10**9 if evaluations is None else evaluations
    idle = turn = 0
    while (turn == 0 or clock.left(reserve) > 0) and len(archive.scored) <= total and idle < 5:
        # Every fourth turn looks everywhere: the whole front is wanted too, and helps near the goal.
        low, high = (0.4 * dense_ms, 0.98 * dense_ms) if turn % 4 == 3 else goal.band(archive)
        before = len(archive.scored)
        refine(
            [] if turn else seeds, score=score, latency=latency, space=space, low=low, high=high,
            evaluations=min(12 if turn else len(seeds), total + 1 - before),
            seconds=max(1e-3, clock.left(reserve)), seed=seed + turn, archive=archive,
            expect=sensitivity.total, quick=quick if len(few) < len(search) else None,
            progress=lambda n, a: tell(
                min(0.95, max(clock.used / clock.seconds, 0.3 + 0.65 * len(a.scored) / total)),
                f"{len(a.scored)} plans scored",
            ),
        )  # fmt: skip
        idle = 0 if len(archive.scored) > before else idle + 1
        turn += 1
    found = _confirm(_worth_confirming(archive, goal), goal, archive, confirm, clock, seed)
    tell(1.0, f"{len(archive.scored)} plans scored, {len(found)} on the front")
    return found


class Goal:
    """The budget asked for, as a band of latency to search in."""

    def __init__(
        self, evaluator: Evaluator, search: list[int], dense_ms: float, *, cap: float | None, drop: float | None
    ) -> None:
        self.evaluator, self.search, self.dense_ms, self.cap = evaluator, search, dense_ms, cap
        self.drop = 1.0 if drop is None else drop
        self.dense_right = evaluator.dense_right(search)

    def band(self, archive: Archive) -> tuple[float, float]:
        """Latencies around the budget: just below a cap, or around the fastest plan that loses no more than allowed."""
        if self.cap is not None:
            return 0.88 * self.cap, self.cap
        scale = self.points_per_root(archive)
        able = [s.ms for s in archive.scored.values() if s.steps and scale * s.loss**0.5 <= self.drop]
        centre = min(able, default=self.dense_ms)
        return 0.92 * centre, min(1.06 * centre, 0.99 * self.dense_ms)

    def points_per_root(self, archive: Archive) -> float:
        """Points of accuracy lost for each square root of a nat of KL, pooled over all plans scored.

        One plan on a hundred images has no drop to speak of, only multiples of a whole point. Disagreement grows about
        with the root of KL, and a part of it, pooled too, is loss; without labels all of it is counted.
        """
        plans = [s for s in archive.scored.values() if s.steps]
        if not plans:
            return 100.0
        scores = [self.evaluator.score(s.steps, self.search) for s in plans]
        differ = sum(float((~s.agree).mean()) for s in scores)
        share = 1.0
        if self.dense_right is not None and differ > 0:
            lost = sum(float(self.dense_right.mean() - s.right.mean()) for s in scores if s.right is not None)
            share = min(1.0, max(0.25, lost / differ))
        # At least one answer in twice as many images as were seen, so that a spotless record is not taken for safety.
        differ = max(differ, 0.5 * len(plans) / max(1, self.evaluator.images(self.search)))
        return 100 * share * differ / max(1e-9, sum(s.loss**0.5 for s in plans))


def _worth_confirming(archive: Archive, goal: Goal, most: int = 14) -> list[Scored]:
    """Of the front, mostly what lies near the budget, the nearest first."""
    whole = [s for s in archive.front() if s.steps]
    low, high = goal.band(archive)
    near = spread([s for s in whole if 0.97 * low <= s.ms <= 1.03 * high], most - 4)
    rest = spread([s for s in whole if s not in near], most - len(near))
    middle = (low + high) / 2
    return sorted([*near, *rest], key=lambda s: abs(s.ms - middle))


def _confirm(
    plans: list[Scored], goal: Goal, archive: Archive, confirm: list[int], clock: Clock, seed: int
) -> list[Candidate]:
    """Score plans on the images kept back, as many as there is time for and the first three in any case."""
    evaluator, found = goal.evaluator, []
    scale = goal.points_per_root(archive)
    f, right = evaluator.facts, evaluator.dense_right(confirm)
    cost = lambda s: macs(s, f.width, patches=f.patches, patch_size=f.patch[0], classes=f.classes)
    dense = cost(Schedule.full(f.tokens, f.depth, f.prefix))
    for i, (steps, ms, loss) in enumerate(plans):
        if i >= 3 and clock.left() <= 0:
            break
        seen = evaluator.score(steps, confirm)
        low, high = _interval(seen.kl, seed)
        kl = float(seen.kl.mean())
        schedule = Schedule.cut(f.tokens, f.depth, {s.block: s.tokens for s in steps}, f.prefix)
        found.append(
            Candidate(
                steps=steps, predicted_ms=ms, speedup=goal.dense_ms / ms, macs_ratio=cost(schedule) / dense,
                kl=kl, kl_low=low, kl_high=high, agreement=float(seen.agree.mean()),
                drop=None if right is None or seen.right is None else 100 * float(right.mean() - seen.right.mean()),
                expected_drop=scale * kl**0.5, search_kl=loss, images=len(seen.kl),
            )
        )  # fmt: skip
    return sorted(found, key=lambda c: c.predicted_ms)


def _interval(values: np.ndarray, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (resamples, len(values)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _space(
    f: Facts,
    table: LatencyTable,
    methods: Sequence[str] | None,
    options: Options,
    counts: Sequence[int] | None,
    blocks: Sequence[int] | None,
) -> Space:
    if bad := [m for m in methods or () if m not in METHODS]:
        raise one_of("method", bad[0], METHODS)
    # Unless asked for: no lottery, and nothing whose outcome depends on an image's batch mates.
    usual = sorted((m for m in METHODS if m != "random" and METHODS[m].per_image), key=_merging_first)
    able = [m for m in methods or usual if f.has_class_token or "class_row" not in METHODS[m].needs]
    if not able:
        raise InputError(f"methods {', '.join(methods or ())} need a class token, which this {f.family} has not")
    counts = default_counts(table, f.tokens, f.prefix) if counts is None else tuple(sorted(set(counts)))
    # The first sixth is left alone: cutting there is ruinous. The last block is not: its MLP is often for nothing.
    blocks = tuple(range(max(1, f.depth // 6), f.depth)) if blocks is None else tuple(sorted(set(blocks)))
    limits = {m: METHODS[m].max_drop for m in able}
    return Space(f.tokens, f.depth, f.prefix, blocks, counts, tuple(able), limits, dict(options))


def _merging_first(method: str) -> tuple[bool, bool, str]:
    """Order of trying, for when time is short: mergers, and among them ours, have lost least so far."""
    cls = METHODS[method]
    return not issubclass(cls, Merger), cls.published, method


def _coarse(space: Space, most: int = 32) -> Space:
    """The same with at most `most` counts, evenly taken, the least kept: enough for dynamic programming."""
    counts = space.counts
    if len(counts) > most:
        counts = tuple(counts[i] for i in sorted({round(x) for x in np.linspace(0, len(counts) - 1, most)}))
    return replace(space, counts=counts)


def _sensitivity(
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
        kl = float(evaluator.score((space.step(block, method, count),), chunks).kl.mean())
        tell(min(0.95, clock.used / clock.seconds), f"sensitivity of block {block + 1} to {method}")
        return kl

    tries = sorted({min(space.blocks, key=lambda b: abs(b - share * space.depth)) for share in (0.3, 0.65)})
    first = search[:1]
    rank: dict[str, float] = {}
    for method in space.methods:
        if not (count := at(0.75, method)):
            continue
        # Roots and logarithms, because a few images hold most of a mean KL, and early blocks most of a sum.
        scores = [evaluator.score((space.step(b, method, count),), first) for b in tries]
        rank[method] = sum(float(np.log((s.kl**0.5).mean() + 1e-9)) for s in scores)
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


def _by_merit(loss: Mapping[int, Mapping[str, Mapping[int, float]]]) -> tuple[str, ...]:
    """The methods measured: those measured in most blocks first, and of these the least lossy
    by geometric mean."""

    def merit(method: str) -> tuple[int, float]:
        here = [at[method] for at in loss.values() if method in at]
        return -len(here), float(np.mean([np.log(x + 1e-9) for at in here for x in at.values()]))

    return tuple(sorted({m for at in loss.values() for m in at}, key=merit))


def _seeds(
    predicted: list[Scored],
    space: Space,
    table: LatencyTable,
    goal: Goal,
    single: Sequence[str],
    latency: Callable[[Steps], float],
) -> list[Steps]:
    """Where refinement starts: of the predicted front, steady ladders, and single cuts at POMT's block.

    One of each kind in turn, since time may end anywhere among them.
    """
    cap, dense_ms = goal.cap, goal.dense_ms
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

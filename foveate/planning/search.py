"""From a model, images and a latency table to plans worth measuring: sensitivities, dynamic programming, refinement."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from foveate.errors import InputError
from foveate.facts import Outputs
from foveate.planners import Archive, LatencyTable, Scored, Sensitivity, front, refine
from foveate.planners.pareto import spread
from foveate.planning.candidate import Candidate, judge
from foveate.planning.evaluator import Evaluator, chunk_of
from foveate.planning.start import Clock, Options, Progress, Steps, by_merit, coarse, seeds_of, single_losses, space_of

ALIKE = 10.0  # plans whose losses are within so many times of each other lose points at the same rate
LOST_OF_CHANGED = 0.1  # of the answers that changed, at least so many are taken to be lost on balance


def plan_candidates(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray | None,
    table: LatencyTable,
    *,
    outputs: Outputs | None = None,
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
    wide: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Candidate]:
    """The front of predicted latency and measured loss, by rising latency, densest around the budget asked for.

    The images are split: plans are chosen on the first `search_share` of a shuffle and reported on the rest, because
    the best of many looks better on the images it was chosen by than it is.

    Args:
        images, labels: [S 3 h w] float32, preprocessed; [S] class indices, for masks uint8 [S h w], or None. At
            least 8.
        table: latencies of this model where it will run; anything in ms-like units will do, MACs too.
        outputs: the kind of output, whose judge says what is lost; None: what the model's facts say.
        methods: names to choose from; default all sensible ones that this model allows. The best two, and one
            that can drop any share, are found out first.
        max_drop, latency_ms, speedup: at most one: points of right answers (of changed ones without labels), the
            table's unit, or dense / reduced. It steers where the search looks; what misses it is still returned.
            Default 1 point.
        wide: the whole front is wanted, evenly, whatever the budget.
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
    chunk = chunk_of(images)
    shown = 0.0

    def tell(share: float, text: str) -> None:
        nonlocal shown
        shown = max(shown, share)
        if progress:
            progress(shown, text)

    order = np.random.default_rng(seed).permutation(len(images))
    evaluator = Evaluator(
        model, images[order], None if labels is None else np.asarray(labels)[order],
        outputs=outputs, chunk=chunk, cache_bytes=cache_bytes, bf16=bf16,
        seconds=None if evaluations is not None else 0.2 * budget_seconds,
        progress=lambda share: tell(0.1 * share, "dense model"),
    )  # fmt: skip
    f = evaluator.facts
    cut = min(evaluator.chunks - 1, max(1, round(search_share * evaluator.chunks)))
    search, confirm = list(range(cut)), list(range(cut, evaluator.chunks))
    chunk_seconds = clock.used / evaluator.chunks  # of the dense model: an upper bound for any plan
    # At the end the best dozen are confirmed on the other half; reduced models take about half the time.
    reserve = min(0.3 * clock.seconds, 12 * 0.5 * chunk_seconds * len(confirm))

    space = space_of(f, table, methods, options or {}, counts, blocks)
    few_counts = coarse(space)
    loss = single_losses(evaluator, few_counts, search, clock, 0.4 * (clock.left(reserve)), chunk_seconds, tell)
    sensitivity = Sensitivity(start=f.tokens, loss=loss)
    all_methods, known = space.methods, by_merit(loss)
    space = replace(space, blocks=tuple(loss), methods=known)
    few_counts = replace(few_counts, blocks=tuple(loss), methods=known)
    dense_ms = table.predict(f.cut(()), {})

    def latency(steps: Steps) -> float:
        return table.predict(space.schedule(steps), {s.block: s.method for s in steps})

    def score(steps: Steps) -> float:
        return float(evaluator.score(steps, search).distance.mean()) if steps else 0.0

    few = search[: max(1, len(search) // 3)]

    def quick(steps: Steps) -> float:
        return float(evaluator.score(steps, few).distance.mean()) if steps else 0.0

    predicted = [s for s in front(few_counts, table, sensitivity, labels=96) if s.steps]
    goal = Goal(evaluator, search, dense_ms, cap=latency_ms or (dense_ms / speedup if speedup else None), drop=max_drop)
    archive = Archive()
    archive.scored[()] = Scored((), dense_ms, 0.0)
    # POMT's own reducer is tried in its own place even where others do better.
    single = [m for m in ("pomt",) if m in all_methods] + [space.methods[0]]
    seeds = seeds_of(predicted, space, table, goal.cap, goal.dense_ms, single, latency)
    total = 10**9 if evaluations is None else evaluations
    idle = turn = 0
    while (turn == 0 or clock.left(reserve) > 0) and len(archive.scored) <= total and idle < 5:
        # Every fourth turn looks everywhere: the whole front is wanted too, and helps near the goal.
        low, high = (0.4 * dense_ms, 0.98 * dense_ms) if wide or turn % 4 == 3 else goal.band(archive)
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
    picks = spread([s for s in archive.front() if s.steps], 14) if wide else _worth_confirming(archive, goal)
    found = _confirm(picks, goal, archive, confirm, clock, seed)
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
        expected = self.expected_drops(archive)
        able = [s.ms for s in archive.scored.values() if s.steps and expected(s.loss) <= self.drop]
        centre = min(able, default=self.dense_ms)
        return 0.92 * centre, min(1.06 * centre, 0.99 * self.dense_ms)

    def expected_drops(self, archive: Archive) -> Callable[[float], float]:
        """From a loss to points of accuracy lost, by what all plans scored lost together.

        One plan on a hundred images has no drop to speak of, only multiples of a whole point. Without labels all
        changed answers count, which grow about with the root of KL, or of 1 - cosine. With labels it is what is lost
        over what is gained, which grows with the loss itself (`foveate.evaluate.evidence`), at the rate of the plans
        about as lossy; on few images the gained may hide it, so that a share of the changed is taken for lost anyway.
        """
        plans = [s for s in archive.scored.values() if s.steps]
        if not plans:
            return lambda loss: 100.0 * loss**0.5
        scores = [self.evaluator.score(s.steps, self.search) for s in plans]
        losses, changed = np.array([s.loss for s in plans]), np.array([float(s.changed.mean()) for s in scores])
        # At least one answer in twice as many images as were seen, so that a spotless record is not taken for safety.
        least = 0.5 / max(1, self.evaluator.images(self.search))
        if self.dense_right is None:
            rate = max(float(changed.sum()), least * len(plans)) / max(1e-9, float(np.sqrt(losses).sum()))
            return lambda loss: 100 * rate * loss**0.5
        right = np.array([float(s.right.mean()) for s in scores if s.right is not None])
        lost = np.maximum(float(self.dense_right.mean()) - right, LOST_OF_CHANGED * changed)

        def expected(loss: float) -> float:
            near = (losses >= loss / ALIKE) & (losses <= ALIKE * loss)
            near = near if near.any() else np.ones(len(losses), bool)
            return 100 * loss * (float(lost[near].sum()) + least) / max(1e-12, float(losses[near].sum()))

        return expected


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
    expected, found = goal.expected_drops(archive), []
    for i, (steps, ms, loss) in enumerate(plans):
        if i >= 3 and clock.left() <= 0:
            break
        found.append(
            judge(
                goal.evaluator,
                steps,
                confirm,
                ms=ms,
                dense_ms=goal.dense_ms,
                expected=expected,
                search_loss=loss,
                seed=seed,
            )
        )
    return sorted(found, key=lambda c: c.predicted_ms)

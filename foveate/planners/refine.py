"""Local search from plans already known, scored for real: puts right what additive losses get wrong."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from foveate.planners.space import Key, Scored, Space, Steps, key_of
from foveate.plans import Step


@dataclass
class Archive:
    """Every plan scored so far. Handing it to a later `refine` goes on from there, and scores nothing twice."""

    scored: dict[Key, Scored] = field(default_factory=dict)
    refused: set[Key] = field(default_factory=set)  # rejected on the cheap estimate

    def front(self, low: float = 0.0, high: float = float("inf")) -> list[Scored]:
        """Those within [low, high] ms that no scored plan as fast beats, by rising latency."""
        out: list[Scored] = []
        for s in sorted((s for s in self.scored.values() if s.ms <= high), key=lambda s: (s.ms, s.loss)):
            if not out or s.loss < out[-1].loss:
                out.append(s)
        return [s for s in out if s.ms >= low]

    def bar(self, ms: float) -> Scored | None:
        """The plan to beat at `ms`: the least loss among those as fast."""
        return min((s for s in self.scored.values() if s.ms <= ms), key=lambda s: s.loss, default=None)


def refine(
    start: Iterable[Steps],
    *,
    score: Callable[[Steps], float],
    latency: Callable[[Steps], float],
    space: Space,
    low: float = 0.0,
    high: float = float("inf"),
    evaluations: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    archive: Archive | None = None,
    expect: Callable[[Steps], float] | None = None,
    quick: Callable[[Steps], float] | None = None,
    patience: float = 1.15,
    brood: int = 8,
    progress: Callable[[int, Archive], None] | None = None,
) -> Archive:
    """Evolve a front between `low` and `high` ms: mutate one of its plans, score, keep. Can be stopped at any time.

    Args:
        start: plans to score first, whatever their latency, until the budget ends.
        score: the loss to minimise, dear.
        latency: predicted ms, cheap.
        evaluations, seconds: budget; at least one is needed. A score that has begun is finished.
        archive: of an earlier call; changed in place and returned.
        expect: a free estimate of the loss (the additive prediction); of `brood` mutants the most promising is scored,
            by expected loss relative to its parent's.
        quick: a cheaper score. A mutant is dropped where it is above `patience` times that of the plan it has to beat.
        progress: called with the evaluations done and the archive after each.
    """
    if evaluations is None and seconds is None:
        raise ValueError("refine needs a budget: evaluations or seconds")
    archive = Archive() if archive is None else archive
    rng, done, began = np.random.default_rng(seed), 0, time.monotonic()

    def spent() -> bool:
        return (evaluations is not None and done >= evaluations) or (
            seconds is not None and time.monotonic() - began >= seconds
        )

    for steps in start:
        if spent():
            return archive
        if key_of(steps) not in archive.scored:
            archive.scored[key_of(steps)] = Scored(steps, latency(steps), score(steps))
            done += 1
            if progress:
                progress(done, archive)
    idle = 0
    while not spent() and idle < 200:
        parents = archive.front(low, high) or archive.front()
        parent = parents[rng.integers(len(parents))] if parents else Scored((), latency(()), 0.0)
        options: list[tuple[float, Steps, float]] = []
        for _ in range(4 * brood):
            if len(options) == brood:
                break
            child = mutate(parent.steps, space, rng)
            if rng.random() < 0.5:
                child = mutate(child, space, rng)
            if key_of(child) in archive.scored or key_of(child) in archive.refused:
                continue
            if not low <= (ms := latency(child)) <= high:
                continue
            bar = archive.bar(ms)
            base = expect(parent.steps) if expect else 0.0
            hope = parent.loss * expect(child) / base if expect and base > 0 else rng.random()
            options.append((hope / bar.loss if expect and bar and bar.loss > 0 else hope, child, ms))
        if not options:
            idle += 1
            continue
        idle = 0
        # Mostly the most promising, at times any: the estimate is blind to how reductions act together.
        _, child, ms = min(options, key=lambda o: o[0]) if rng.random() < 0.7 else options[rng.integers(len(options))]
        bar = archive.bar(ms)
        if quick and bar and quick(child) > patience * quick(bar.steps):
            archive.refused.add(key_of(child))
            continue
        archive.scored[key_of(child)] = Scored(child, ms, score(child))
        done += 1
        if progress:
            progress(done, archive)
    return archive


def mutate(steps: Steps, space: Space, rng: np.random.Generator) -> Steps:
    """One random move: shift a count, trade tokens between two steps, move, add or remove a step, change a method.

    Returns `steps` as they were where no valid move was found in a few tries.
    """
    moves = (_shift, _shift, _trade, _move, _add, _remove, _swap)
    for _ in range(20):
        child = moves[rng.integers(len(moves))](steps, space, rng)
        if child != steps and space.valid(child):
            return child
    return steps


def _near(count: int, space: Space, rng: np.random.Generator, sign: int = 0) -> int:
    """A count a few places up or down the list from `count`: one to four, or more where the list is fine."""
    counts = space.counts
    i = int(np.searchsorted(counts, count))
    jump = int(rng.integers(1, 5 + len(counts) // 16)) * (sign or (1 if rng.random() < 0.5 else -1))
    return counts[min(max(i + jump, 0), len(counts) - 1)]


def _shift(steps: Steps, space: Space, rng: np.random.Generator) -> Steps:
    if not steps:
        return steps
    i = int(rng.integers(len(steps)))
    return _with(steps, i, space.step(steps[i].block, steps[i].method, _near(steps[i].tokens, space, rng)))


def _trade(steps: Steps, space: Space, rng: np.random.Generator) -> Steps:
    if len(steps) < 2:
        return steps
    i, j = rng.choice(len(steps), 2, replace=False)
    up = space.step(steps[i].block, steps[i].method, _near(steps[i].tokens, space, rng, 1))
    down = space.step(steps[j].block, steps[j].method, _near(steps[j].tokens, space, rng, -1))
    return _with(_with(steps, i, up), j, down)


def _move(steps: Steps, space: Space, rng: np.random.Generator) -> Steps:
    if not steps:
        return steps
    i = int(rng.integers(len(steps)))
    block = steps[i].block + int(rng.choice([-2, -1, 1, 2]))
    return _with(steps, i, space.step(block, steps[i].method, steps[i].tokens)) if block in space.blocks else steps


def _add(steps: Steps, space: Space, rng: np.random.Generator) -> Steps:
    free = [b for b in space.blocks if b not in {s.block for s in steps}]
    if not free:
        return steps
    block = free[rng.integers(len(free))]
    before = next((s.tokens for s in reversed(steps) if s.block < block), space.start)
    after = next((s.tokens for s in steps if s.block > block), space.prefix)
    counts = [n for n in space.counts if after < n < before]
    if not counts:
        return steps
    new = space.step(block, space.methods[rng.integers(len(space.methods))], counts[rng.integers(len(counts))])
    return tuple(sorted((*steps, new), key=lambda s: s.block))


def _remove(steps: Steps, space: Space, rng: np.random.Generator) -> Steps:
    if not steps:
        return steps
    i = int(rng.integers(len(steps)))
    return steps[:i] + steps[i + 1 :]


def _swap(steps: Steps, space: Space, rng: np.random.Generator) -> Steps:
    """Another method for one step, or for all that it can take: reductions by one method suit each other."""
    if not steps:
        return steps
    method, one = space.methods[rng.integers(len(space.methods))], int(rng.integers(len(steps)))
    whole, now, out = rng.random() < 0.5, space.start, []
    for i, s in enumerate(steps):
        change = (whole or i == one) and space.allows(method, now, s.tokens)
        out.append(space.step(s.block, method, s.tokens) if change else s)
        now = s.tokens
    return tuple(out)


def _with(steps: Steps, i: int, step: Step) -> Steps:
    return (*steps[:i], step, *steps[i + 1 :])

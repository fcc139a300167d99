"""The default planner: the best trade of loss for latency over every (block, method, count), any number of steps.

Loss is taken as additive along the path of token counts and latency as the table predicts it, so dynamic programming
over (block, count) finds the whole front exactly. What additivity misses is left to `refine`, which scores plans for
real. The idea of a latency table under a dynamic programme is HALP's and MDP's, carried over to token counts.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import TypeVar

import numpy as np

from foveate.errors import InputError
from foveate.planners.pomt import cut_block
from foveate.planners.space import Scored, Sensitivity, Space
from foveate.planners.table import LatencyTable

T = TypeVar("T")


def pareto(scored: Iterable[Scored]) -> list[Scored]:
    """Those that no other beats in both figures, by rising latency and so falling loss. Of equals, one."""
    out: list[Scored] = []
    for s in sorted(scored, key=lambda s: (s.ms, s.loss)):
        if not out or s.loss < out[-1].loss:
            out.append(s)
    return out


def least_loss(scored: Iterable[Scored], *, ms: float) -> Scored:
    """The least loss within `ms`.

    Raises:
        InputError: where none is that fast; names the fastest.
    """
    scored = list(scored)
    able = [s for s in scored if s.ms <= ms]
    if not able:
        fastest = min((s.ms for s in scored), default=float("nan"))
        raise InputError(f"no plan takes {ms:g} ms or less; the fastest found takes {fastest:.3g} ms")
    return min(able, key=lambda s: (s.loss, s.ms))


def least_ms(scored: Iterable[Scored], *, loss: float) -> Scored:
    """The fastest with at most `loss`.

    Raises:
        InputError: where none loses so little; names the least.
    """
    scored = list(scored)
    able = [s for s in scored if s.loss <= loss]
    if not able:
        least = min((s.loss for s in scored), default=float("nan"))
        raise InputError(f"no plan loses {loss:g} or less; the least found is {least:.3g}")
    return min(able, key=lambda s: (s.ms, s.loss))


def single_cuts(space: Space, table: LatencyTable, sensitivity: Sensitivity) -> list[Scored]:
    """Every one-step plan at POMT's block (the nearest allowed one), so that a search is never worse than POMT."""
    block = min(space.blocks, key=lambda b: abs(b - cut_block(space.depth)))
    plans = [(space.step(block, m, n),) for m in space.methods for n in space.counts if space.allows(m, space.start, n)]
    return [Scored(p, table.predict(space.schedule(p), {block: p[0].method}), sensitivity.total(p)) for p in plans]


def front(space: Space, table: LatencyTable, sensitivity: Sensitivity, *, labels: int | None = None) -> list[Scored]:
    """The Pareto front of predicted latency and predicted loss, the dense model included, by rising latency.

    Args:
        labels: partial plans kept per (block, count), the best in each of as many slices of latency; None keeps every
            one that is not dominated, which is exact, and slow for hundreds of counts.
    """
    counts = [space.start, *sorted(space.counts, reverse=True)]
    # Partial plans that hold counts[i] tokens now: latency, loss, and where they came from, as rows of one array.
    ms: list[np.ndarray] = [np.array([table.fixed_ms])] + [np.empty(0)] * (len(counts) - 1)
    loss: list[np.ndarray] = [np.zeros(1)] + [np.empty(0)] * (len(counts) - 1)
    trail: list[list[np.ndarray]] = []  # block -> count -> [labels 3]: count before, label before, method (-1: none)
    for block in range(space.depth):  # a step that was not measured is not offered
        new_ms, new_loss, origins = [], [], []
        able = [m for m in space.methods if block in space.blocks and sensitivity.knows(block, m)]
        lost = {m: [sensitivity.at(block, m, n) for n in counts] for m in able}
        for j, m in enumerate(counts):
            parts = [(ms[j] + table.block_ms(m, m), loss[j], j, -1)]
            if able:
                for i, n in enumerate(counts[:j]):
                    if not len(ms[i]):
                        continue
                    for k, method in enumerate(space.methods):
                        if method in lost and space.allows(method, n, m):
                            more = max(0.0, lost[method][j] - lost[method][i])
                            parts.append((ms[i] + table.block_ms(n, m, method), loss[i] + more, i, k))
            a, b = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
            origin = np.concatenate([_origin(len(p[0]), p[2], p[3]) for p in parts])
            best = _thin(a, b, labels)
            new_ms.append(a[best])
            new_loss.append(b[best])
            origins.append(origin[best])
        ms, loss = new_ms, new_loss
        trail.append(origins)
    ends = [(ms[j][k], loss[j][k], j, k) for j in range(len(counts)) for k in range(len(ms[j]))]
    out: list[Scored] = []
    for t, lost, j, k in sorted(ends, key=lambda e: e[:2]):
        if out and lost >= out[-1].loss:
            continue
        steps = []
        for block in reversed(range(space.depth)):
            before, label, method = trail[block][j][k]
            if method >= 0:
                steps.append(space.step(block, space.methods[method], counts[j]))
            j, k = before, label
        out.append(Scored(tuple(reversed(steps)), float(t), float(lost)))
    return out


def spread(scored: Sequence[T], count: int, ms_of: Callable[[T], float] = attrgetter("ms")) -> list[T]:
    """`count` of them, as evenly over latency as they come, both ends included."""
    if len(scored) <= count:
        return list(scored)
    ms = np.array([ms_of(s) for s in scored])
    picks = {int(np.abs(ms - x).argmin()) for x in np.linspace(ms.min(), ms.max(), count)}
    return [scored[i] for i in sorted(picks)]


def _origin(n: int, before: int, method: int) -> np.ndarray:
    return np.stack([np.full(n, before), np.arange(n), np.full(n, method)], axis=1)


def _thin(ms: np.ndarray, loss: np.ndarray, labels: int | None) -> np.ndarray:
    """Indices of the labels that are not dominated, by rising latency; at most about `labels` of them."""
    order = np.lexsort((loss, ms))
    falling = loss[order]
    new = np.ones(len(order), bool)
    new[1:] = falling[1:] < np.minimum.accumulate(falling)[:-1]
    order = order[new]
    if labels is None or len(order) <= labels:
        return order
    edges = np.linspace(ms[order[0]], ms[order[-1]], labels + 1)
    # Within a slice the last is the slowest and so the least lossy; the fastest of all stays too.
    slices = np.searchsorted(edges, ms[order], side="right")
    last = np.append(slices[1:] != slices[:-1], True)
    last[0] = True
    return order[last]

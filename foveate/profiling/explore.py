"""Where to measure a curve with cliffs: a coarse grid, then more points where a straight line would be wrong.

Latency against token count is a staircase whose cliffs sit where a kernel's tile is full, mostly one token past a
multiple of 16; it may fall, too, where tokens are added (pomt.md, section 1.9). So nothing is taken to be monotone, and
every point measured is kept.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Measure = Callable[[Sequence[int]], Sequence[float]]


@dataclass(frozen=True)
class Explored:
    """Latencies by token count. `complete`: nothing more was worth measuring; else time or points ran out."""

    points: dict[int, float]
    complete: bool


def coarse_step(low: int, high: int, most: int = 20) -> int:
    """16, or the next power of two for which the range has at most `most` steps."""
    step = 16
    while (high - low) / step > most:
        step *= 2
    return step


def coarse_grid(low: int, high: int) -> list[int]:
    """Multiples of 16 (of 32, 64 ... on a long range), both ends, and one below the upper.

    The full count is odd with a class token, and the count below it even: that pair shows what misalignment costs.
    Ordered so that any beginning of the list is spread over the whole range.
    """
    step = coarse_step(low, high)
    rounds = [
        [high, low],
        [n for n in range(0, high, 4 * step) if n > low],
        [n for n in range(0, high, step) if n > low],
        [high - 1] if high - 1 > low else [],
    ]
    return list(dict.fromkeys(n for part in rounds for n in part))


def explore(
    measure: Measure,
    low: int,
    high: int,
    budget: int,
    *,
    tolerance: float = 0.025,
    at_once: int = 4,
    known: Mapping[int, float] | None = None,
) -> Explored:
    """Find a curve's cliffs, to one token, in few points.

    After the coarse grid, an interval between neighbouring points is looked into
    - where it rises or falls by more than `tolerance` beyond what the grid does on both sides: first at the left end
      plus one (most cliffs are there), then by bisection until the jump is between two neighbouring counts;
    - where it rises as it does beside: in the middle. Once a straight line meets that, the interval is left alone; if
      not, the rise was a cliff after all (a staircase with one step an interval looks straight from afar).
    Which intervals these are depends on the points alone, so an exploration that was broken off can be gone on with.

    Args:
        measure: token counts, at most `at_once`, -> their latencies in any unit. Fewer than asked for: time is over.
        low, high: counts to explore, both included.
        budget: most points to measure.
        tolerance: share of the latency below which a difference is noise.
        known: points measured before; these cost nothing.
    """
    points = {n: ms for n, ms in (known or {}).items() if low <= n <= high}
    left = budget

    def ask(counts: Sequence[int]) -> bool:
        """Measure, in groups; False where the time or the points are used up."""
        nonlocal left
        wanted = [n for n in counts if n not in points]
        for i in range(0, len(wanted), at_once):
            group = wanted[i : min(i + at_once, i + left)]
            found = list(measure(group)) if group else []
            points.update(zip(group, found, strict=False))
            left -= len(found)
            if len(found) < len(wanted[i : i + at_once]):
                return False
        return True

    if not ask(coarse_grid(low, high)):
        return Explored(points, False)
    while doubts := _doubts(points, tolerance, coarse_step(low, high)):
        if not ask([_probe(a, b, sure) for sure, a, b in doubts[:at_once]]):
            return Explored(points, False)
    return Explored(points, True)


def _doubts(points: Mapping[int, float], tolerance: float, step: int) -> list[tuple[bool, int, int]]:
    """(sure to hide a cliff, from, to) of every interval worth a look, the most promising first."""
    at = sorted(points)
    # Cells of the grid: what is usual beside an interval is how steep the cells on both sides are.
    cuts = [n for n in at if n in (at[0], at[-1]) or n % step == 0]
    slopes = [_slope(points, a, b) for a, b in pairwise(cuts)]
    found = []
    for i, (a, b) in enumerate(pairwise(at)):
        change, scale = points[b] - points[a], max(points[a], points[b])
        if b - a < 2 or abs(change) <= tolerance * scale:
            continue
        cell = bisect_right(cuts, a) - 1
        beside = slopes[max(0, cell - 1) : cell] + slopes[cell + 1 : cell + 2]
        if len(beside) < 2:
            beside.append(sorted(slopes)[len(slopes) // 2])
        slope = change / (b - a)
        excess = max(slope - max(beside), min(beside) - slope, 0.0) * (b - a) / scale
        sure = excess > tolerance
        triples = [at[k : k + 3] for k in (i - 1, i) if k >= 0 and k + 2 < len(at)]
        if sure or not any(_straight(points, a, c, b, tolerance, step) for a, c, b in triples):
            found.append((not sure, -excess if sure else -abs(change) / scale, a, b))
    return [(not unsure, a, b) for unsure, _, a, b in sorted(found)]


def _slope(points: Mapping[int, float], a: int, b: int) -> float:
    return (points[b] - points[a]) / (b - a)


def _straight(points: Mapping[int, float], a: int, c: int, b: int, tolerance: float, step: int) -> bool:
    """Does c, near the middle of one step of the grid or less, lie on the line from a to b?"""
    if b - a > step or 4 * min(c - a, b - c) < b - a:
        return False
    line = points[a] + _slope(points, a, b) * (c - a)
    return abs(points[c] - line) <= tolerance * points[c]


def _probe(a: int, b: int, sure: bool) -> int:
    """Where to look between a and b: one past an aligned left end, or the roundest number of the middle half."""
    if sure and a % 8 == 0:
        return a + 1
    middle = [c for c in range(a + 1, b) if abs(2 * c - a - b) <= max(1, (b - a) / 2)]
    return max(middle, key=lambda c: (c & -c, -abs(2 * c - a - b)))

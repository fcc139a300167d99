"""The most tokens that keep within a limit, in milliseconds or bytes, found by measuring. How to measure is given.

A time or a peak grows with the tokens, as a staircase and with noise. So the search brackets the limit, moves in by
straight lines between what was measured, and ends with a count that was itself measured within.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from foveate.errors import InputError

NEAR = 0.05  # below the limit by less than this share is near enough, if one more token would not do
MOST_COUNTS = 14


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Args:
        tokens: the most that keep within the limit; None where not even one does.
        seen: every count that was measured, with the medians.
    """

    tokens: int | None
    seen: dict[int, float]


def within_limit(
    measure: Callable[[int, int], list[float]],
    limit: float,
    most: int,
    *,
    repeats: int = 5,
    tell: Callable[[int, float], None] = lambda tokens, value: None,
) -> Found:
    """Search between 1 and `most` tokens.

    Args:
        measure: (tokens, repeats) -> as many values.
        limit: in the unit of what is measured.
        repeats: values a count; a count near the limit is asked for three times as many before it is believed.
        tell: hears of every count and its median.

    Raises:
        InputError: a limit that is no positive number.
    """
    if not 0 < limit < float("inf"):
        raise InputError(f"limit {limit}; allowed: above 0")
    seen: dict[int, list[float]] = {}

    def value(tokens: int, times: int = repeats) -> float:
        have = seen.setdefault(tokens, [])
        if len(have) < times:
            have += measure(tokens, times - len(have))
        found = median(have)
        tell(tokens, found)
        return found

    def believed(tokens: int) -> bool:
        found = value(tokens)
        if abs(found - limit) < 0.1 * limit:
            found = value(tokens, 3 * repeats)
        return found <= limit

    def result(tokens: int | None) -> Found:
        return Found(tokens, {n: median(v) for n, v in sorted(seen.items())})

    if believed(most):
        return result(most)
    if not believed(1):
        return result(None)
    low, high = 1, most
    while high - low > 1 and len(seen) < MOST_COUNTS:
        below, above = median(seen[low]), median(seen[high])
        if below >= (1 - NEAR) * limit and high - low <= max(1, low // 50):
            break
        share = (0.98 * limit - below) / (above - below) if above > below else 0.5
        middle = low + round(min(0.95, max(0.05, share)) * (high - low))
        middle = min(high - 1, max(low + 1, middle))
        if believed(middle):
            low = middle
            if median(seen[low]) >= (1 - NEAR) * limit:
                break
        else:
            high = middle
    return result(low)

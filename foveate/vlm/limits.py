"""The most tokens that keep within a limit, in milliseconds or bytes, found by measuring. How to measure is given.

A time or a peak grows with the tokens, as a staircase and with noise. So the search brackets the limit, moves in by
straight lines between what was measured, and ends with a count that was itself measured within. Near the limit a
median alone says little: of counts tried there, the lucky ones would be taken. So one is believed when the upper end
of its median's interval is within.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from typing import Literal

from foveate.errors import InputError

NEAR = 0.05  # below the limit by less than this share is near enough, if one more token would not do
CLOSE = 0.1  # a count whose median is within this share of the limit is measured three times as often
LEVEL = 0.9
MOST_COUNTS = 14


@dataclass(frozen=True)
class Limit:
    """What a budget is to keep within.

    Args:
        unit: "ttft_ms", milliseconds to the first token, or "memory_gb", 10^9 bytes in use, weights included.
        value: above 0.
    """

    unit: Literal["ttft_ms", "memory_gb"]
    value: float

    @classmethod
    def of(cls, ttft_ms: float | None, memory_gb: float | None) -> "Limit":
        """The one that is given.

        Raises:
            InputError: none or both, or a number that is none.
        """
        if (ttft_ms is None) == (memory_gb is None):
            raise InputError("give one limit: --ttft-ms or --memory-gb")
        made = cls("ttft_ms", ttft_ms) if ttft_ms is not None else cls("memory_gb", memory_gb or 0.0)
        if not 0 < made.value < float("inf"):
            raise InputError(f"--{made.unit.replace('_', '-')} {made.value}; allowed: above 0")
        return made

    def __str__(self) -> str:
        return f"{self.value:g} ms to the first token" if self.unit == "ttft_ms" else f"{self.value:g} GB"


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Args:
        tokens: the most that keep within the limit; None where not even one does.
        seen: every count that was measured, with the medians.
    """

    tokens: int | None
    seen: dict[int, float]


def upper_median(values: Sequence[float], level: float = LEVEL) -> float:
    """The smallest of the values that lies above the median they are drawn from with a chance of `level`.

    Whatever their distribution is: half of it lies below the median, so the number of values there is binomial. The
    largest where so few values cannot say it.
    """
    n, below = len(values), 0.0
    for k, value in enumerate(sorted(values), 1):
        below += comb(n, k - 1) / 2**n  # P(at most k - 1 values lie below the median)
        if below >= level:
            return value
    return max(values)


def within_limit(
    measure: Callable[[int, int], list[float]],
    limit: float,
    most: int,
    *,
    repeats: int = 5,
    tell: Callable[[int, float], object] = lambda tokens, value: None,
) -> Found:
    """Search between 1 and `most` tokens.

    Args:
        measure: (tokens, repeats) -> as many values.
        limit: in the unit of what is measured.
        repeats: values a count; one near the limit gets three times as many, and is believed by `upper_median`.
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
        if abs(found - limit) < CLOSE * limit:
            value(tokens, 3 * repeats)
            found = upper_median(seen[tokens])
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
        share = (0.97 * limit - below) / (above - below) if above > below else 0.5
        middle = low + round(min(0.95, max(0.05, share)) * (high - low))
        middle = min(high - 1, max(low + 1, middle))
        if believed(middle):
            low = middle
            if median(seen[low]) >= (1 - NEAR) * limit:
                break
        else:
            high = middle
    return result(low)

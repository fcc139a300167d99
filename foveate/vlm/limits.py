"""The most tokens that keep within a limit, in milliseconds or bytes, found by measuring. How to measure is given.

A time or a peak grows with the tokens, as a staircase and with noise. So the search brackets the limit, moves in by
straight lines between what was measured, and ends with a count that was itself measured within.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal

from foveate.errors import InputError

NEAR = 0.05  # below the limit by less than this share is near enough, if one more token would not do
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

"""Numbers as text: three significant digits, a real minus sign, nothing rounded onto a bound it must not touch."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import TypeGuard

from foveate.plans import Step
from foveate.result import Result, Tag
from foveate.written import Value

NONE = "\u2013"  # en dash
MINUS = "\u2212"
SEEN = {"unseen": "unseen photographs", "confirm": "held-out photographs", "search": "photographs of the search"}
SHARES = {"", "1", "share", "fraction", "ratio", "prob"}
Limits = Sequence[float | None]


@dataclass
class Table:
    """Rows of text. `numeric` columns are set flush right in tabular figures; `marked` rows are the chosen ones."""

    title: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)
    numeric: tuple[int, ...] = ()
    marked: set[int] = field(default_factory=set)


def number(value: float | None, digits: int = 3, *, limits: Limits = ()) -> str:
    """`digits` significant ones, thousands separated: 0.0213, 1.31, 412, 4,816; more where `beside` asks for more."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if places > 6:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    return _written(_rounded(value, _places(places, limits, (value, ROUND_HALF_EVEN))))


def fixed(value: float | None, places: int = 1, *, limits: Limits = ()) -> str:
    """`places` decimals or as many as `bounded` takes, and no minus sign before a zero."""
    return bounded(value, None, None, places, limits=limits)[0]


def bounded(
    value: float | None, low: float | None, high: float | None, places: int = 1, *, limits: Limits = ()
) -> tuple[str, str, str]:
    """A value and its interval as text: the lower bound rounded down, the upper one up, the value to the nearest.

    `places` decimals, or up to four more where any of the three would land on or across one of `limits` that it does
    not touch: a bound of 1.004 is no 1.00, and 1.04 points lost are no 1.0 where one point may be lost.
    """
    ways = ((value, ROUND_HALF_EVEN), (low, ROUND_FLOOR), (high, ROUND_CEILING))
    places = _places(places, limits, *ways)
    said = [NONE if not _known(v) else _written(_rounded(v, places, way)) for v, way in ways]
    return said[0], said[1], said[2]


def _places(places: int, limits: Limits, *ways: tuple[float | None, str]) -> int:
    """The fewest decimals, from `places` on, that leave every number on its side of every limit; four more at most."""
    known = [(v, way) for v, way in ways if _known(v)]
    asked = [_exact(limit) for limit in limits if _known(limit)]
    for tried in range(places, places + 4):
        if all(_side(_exact(v), at) == _side(_rounded(v, tried, way), at) for v, way in known for at in asked):
            return tried
    return places + 4 if known and asked else places


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _exact(value: float) -> Decimal:
    """As written in 12 digits, so that 100 x 0.993 is 99.3 and not a hair more."""
    return Decimal(f"{value:.12g}")


def _rounded(value: float, places: int, way: str = ROUND_HALF_EVEN) -> Decimal:
    return _exact(value).quantize(Decimal(1).scaleb(-places), rounding=way)


def _side(value: Decimal, limit: Decimal) -> int:
    return (value > limit) - (value < limit)


def _written(value: Decimal) -> str:
    return f"{value if value else abs(value):,f}".replace("-", MINUS)


def between(low: float | None, high: float | None, places: int = 1, *, limits: Limits = ()) -> str:
    """`1.2 to 3.4`, rounded outwards."""
    if low is None or high is None:
        return ""
    _, low_text, high_text = bounded(None, low, high, places, limits=limits)
    return f"{low_text} to {high_text}"


def percent(result: Result | Value, value: float | None) -> float | None:
    """`value`, which is in the result's unit, as percent or points of it."""
    return value if value is None or result.unit.lower() not in SHARES else 100 * value


def points(result: Result | None) -> tuple[float | None, float | None, float | None]:
    """(value, low, high) in percent or points."""
    if result is None:
        return None, None, None
    return percent(result, result.value), percent(result, result.low), percent(result, result.high)


def evidence(result: Result | None, *, places: int = 1, scale: bool = False, unit: str = "") -> str:
    """`95 % interval 1.2 to 3.4, n = 84`, as far as it is known."""
    if result is None:
        return ""
    low, high = result.low, result.high
    if scale:
        _, low, high = points(result)
    parts = []
    if low is not None and high is not None:
        level = "" if result.level is None else f"{level_text(result.level)} "
        parts.append(f"{level}interval {between(low, high, places)}{unit}")
    if result.n is not None:
        kind = SEEN.get(str(result.tags.get("split")))
        parts.append(f"{result.n:,} {kind}" if kind else f"n = {result.n:,}")
    return ", ".join(parts)


def level_text(level: float) -> str:
    return f"{level * 100:g} %"


def tie(words: str) -> str:
    """No line breaks between a number and its unit."""
    return re.sub(r"(?<=\d) (?=(?:%|ms|GMAC|threads?|points?|nats|dB)(?:\W|$))|(?<=n =) |(?<=n) (?==)", "\u00a0", words)


def capital(words: str) -> str:
    """A capital first, but for names that begin with a small letter by themselves (mIoU, kNN)."""
    return words if words[1:2].isupper() else words[:1].upper() + words[1:]


def sentence(words: str) -> str:
    """A capital first and a full stop last."""
    words = words.strip()
    return capital(words) + ("" if words.endswith((".", "!", "?")) else ".")


def seconds(value: float) -> str:
    if value < 90:
        return f"{value:.0f} s"
    return f"{int(value // 60)} min {value % 60:.0f} s"


def listed(values: Iterable[object]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = [str(v) for v in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def joined(parts: Iterable[str]) -> str:
    """Those that say something, by semicolons."""
    return "; ".join(p for p in parts if p)


def step_text(step: Step) -> str:
    options = ", ".join(f"{k}={v}" for k, v in step.options.items())
    return f"{step.method} ({options})" if options else step.method


def text(value: Tag) -> str:
    """A tag or fact as words."""
    if value is None or value == "":
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, 4)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

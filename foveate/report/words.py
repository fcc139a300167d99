"""Numbers as text: three significant digits, a real minus sign, no bound rounded onto a value it must not touch."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from foveate.plans import Step
from foveate.result import Result

NONE = "\u2013"  # en dash
MINUS = "\u2212"
SEEN = {"unseen": "unseen photographs", "confirm": "held-out photographs", "search": "photographs of the search"}
SHARES = {"", "1", "share", "fraction", "ratio", "prob"}


@dataclass
class Table:
    """Rows of text. `numeric` columns are set flush right in tabular figures; `marked` rows are the chosen ones."""

    title: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)
    numeric: tuple[int, ...] = ()
    marked: set[int] = field(default_factory=set)


def number(value: float | None, digits: int = 3) -> str:
    """`digits` significant ones, thousands separated: 0.0213, 1.31, 412, 4,816."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    if places > 6:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    return f"{value:,.{places}f}".replace("-", MINUS)


def fixed(value: float | None, places: int = 1) -> str:
    """`places` decimals, and no minus sign before a zero."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:,.{places}f}"
    return (text.lstrip("-") if not text.strip("-0.,") else text).replace("-", MINUS)


def ratios(*values: float | None) -> list[str]:
    """Two decimals, or as many as keep a value that is not 1 from being printed as 1 (a bound of 1.004, for one)."""
    given = [v for v in values if v is not None and math.isfinite(v)]
    for places in (2, 3, 4, 5):
        if all(v == 1 or round(v, places) != 1 for v in given):
            break
    return [fixed(v, places) for v in values]


def between(low: float | None, high: float | None, places: int = 1) -> str:
    return "" if low is None or high is None else f"{fixed(low, places)} to {fixed(high, places)}"


def percent(result: Result, value: float | None) -> float | None:
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
    return re.sub(r"(?<=\d) (?=(?:%|ms|GMAC|threads?|points|nats|dB)(?:\W|$))|(?<=n =) |(?<=n) (?==)", "\u00a0", words)


def sentence(words: str) -> str:
    """A capital first and a full stop last."""
    words = words.strip()
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def seconds(value: float) -> str:
    if value < 90:
        return f"{value:.0f} s"
    return f"{int(value // 60)} min {value % 60:.0f} s"


def listed(values: Iterable[object]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = [str(v) for v in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def step_text(step: Step) -> str:
    options = ", ".join(f"{k}={v}" for k, v in step.options.items())
    return f"{step.method} ({options})" if options else step.method

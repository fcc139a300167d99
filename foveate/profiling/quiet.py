"""Is it quiet enough to measure? Looked at before, waited for a while, and told where it is not."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from foveate.hardware.timer import Load
from foveate.profiling.curve import Point

Look = Callable[[], Load]
ALLOWED_CORES = 0.25  # that others may use in any case while a point is timed
TICKS_S = 0.03  # of CPU that is not counted: the system counts it in hundredths of a second, and rounds
FAR = 1.5  # times the median reference, either way: past it something else was measured than the model


def await_quiet(
    look: Look, patience_s: float, say: Callable[[str], object], clock: Callable[[], float] = time.monotonic
) -> str | None:
    """Look until nothing disturbs, for `patience_s` at most; what still disturbs then, in one line, or None."""
    end = clock() + patience_s
    while not (load := look()).quiet:
        noise = "; ".join(load.notes)
        if clock() >= end:
            return noise
        say(f"waiting: {noise}")
    return None


def others_worked(timings: Iterable[Mapping[str, float]], allowed: float = ALLOWED_CORES) -> bool:
    """Did other processes use more than `allowed` cores, over several of a worker's `facts()["quiet"]`?"""
    seen = [(q["other_cores"], q["seconds"]) for q in timings if not math.isnan(q["other_cores"])]
    used, wall = sum(cores * s for cores, s in seen), sum(s for _, s in seen)
    return used - TICKS_S > max(allowed, ALLOWED_CORES) * wall


def reference_of(points: Iterable[Point]) -> float:
    """The reference's latency, ms: the median of what every group of points saw."""
    return float(np.median([p.reference_ms for p in points]))


def far(point: Point, reference_ms: float) -> bool:
    """Was the reference in this point's rounds far from what it mostly is?"""
    return not 1 / FAR <= point.reference_ms / reference_ms <= FAR


def told(noise: str | None, points: Sequence[Point]) -> str | None:
    """One line for a profile that was disturbed, else None. `noise`: what there was when it began."""
    bad = sum(p.disturbed for p in points)
    if bad:
        return f"{bad} of {len(points)} points were measured while others worked" + (f": {noise}" if noise else "")
    return None if noise is None else f"when measuring began, {noise}"

"""Is b faster than a? Paired samples, an interval that assumes no distribution, and no "faster" before it is proven.

Samples come in rounds, and every round runs both in a fresh random order. So if nothing differs, which of the two was
slower in a round is a fair coin whatever the machine does: heavy tails, drift, two clock speeds. The interval for the
median log-ratio inverts exactly that coin (the sign test), and its lower bound stays below 1 as often as it promises.

Percentiles follow MLPerf Inference's early-stopping rule (inference_policies, 2026-07): with confidence 99 %, at least
11 samples for a p50, 64 for a p90, 662 for a p99; below that there is no figure.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from foveate.errors import InputError
from foveate.hardware.device import default_threads, governor, usable_cpus
from foveate.target import Target

log = logging.getLogger(__name__)

Samples = np.ndarray  # [n] milliseconds
CONFIDENCE = 0.99
QUIET_CORES = 0.15  # that others may use where every core is wanted


@dataclass(frozen=True)
class Speedup:
    """How many times faster: median of base / other over pairs, with the interval [low, high] at `level`."""

    value: float
    low: float
    high: float
    level: float
    n: int  # pairs

    @property
    def faster(self) -> bool:
        """Proven faster: the whole interval is above 1."""
        return self.low > 1

    def __str__(self) -> str:
        return f"{self.value:.3f}x [{self.low:.3f}, {self.high:.3f}] at {self.level:.0%}, n = {self.n}"


def speedup(base_ms: Samples, other_ms: Samples, level: float = 0.99) -> Speedup:
    """Median of base / other over rounds, with a distribution-free interval (order statistics of the log-ratios).

    Args:
        base_ms, other_ms: [n] milliseconds; row i of both is one round.
        level: two-sided confidence, so a null pair is called faster with a chance of at most (1 - level) / 2.

    With too few pairs for the level (below 8 at 99 %) the interval is (0, inf).

    Raises:
        InputError: unequal lengths, no samples, or a time that is not a positive number.
    """
    base, other = np.asarray(base_ms, np.float64), np.asarray(other_ms, np.float64)
    if base.ndim != 1 or base.shape != other.shape or not base.size:
        raise InputError(f"paired samples must be two rows of one length; got shapes {base.shape} and {other.shape}")
    if not (np.isfinite(base).all() and np.isfinite(other).all() and base.min() > 0 and other.min() > 0):
        raise InputError("a latency must be a positive number of milliseconds")
    if not 0 < level < 1:
        raise InputError(f"level is {level}; allowed: between 0 and 1")
    ratios = np.sort(np.log(base) - np.log(other))
    n, k = len(ratios), _rank(len(ratios), (1 - level) / 2)
    low, high = (ratios[k - 1], ratios[n - k]) if k else (-np.inf, np.inf)
    return Speedup(float(np.exp(np.median(ratios))), float(np.exp(low)), float(np.exp(high)), level, n)


def _rank(n: int, tail: float) -> int:
    """Largest k for which fewer than k of n fair coins show heads with a chance of at most `tail`, or 0."""
    from scipy.special import bdtr

    return int(np.searchsorted(bdtr(np.arange(n), n, 0.5), tail, side="right"))


def proven(
    measure: Callable[[int], tuple[Samples, Samples]],
    *,
    level: float = 0.99,
    first: int = 64,
    most: int = 1024,
    tight: float = 0.02,
    claims: int = 1,
) -> tuple[Speedup, Samples, Samples]:
    """Measure pairs until the question is settled: `measure(n)` returns n more pairs (base_ms, other_ms).

    Looks at 64, 128, ... pairs and stops at the first that proves faster or slower, or whose interval is within a share
    `tight` of its middle, or at `most`. Looking K times is paid for by Bonferroni: every look's interval has the level
    1 - (1 - level) / K, so that all of them hold at once with `level`, which is what the returned Speedup says. In the
    same way is paid for `claims`: how many such questions may be asked until one is answered with yes.

    Returns:
        The Speedup and all samples, base and other.
    """
    if not 1 <= first <= most:
        raise InputError(f"pairs to start with and at most are {first} and {most}; needed: 1 <= first <= most")
    looks = [first]
    while looks[-1] < most:
        looks.append(min(2 * looks[-1], most))
    each = 1 - (1 - level) / (len(looks) * claims)
    base, other = np.empty(0), np.empty(0)
    found = None
    for look in looks:
        more_base, more_other = measure(look - len(base))
        base, other = np.concatenate([base, more_base]), np.concatenate([other, more_other])
        found = speedup(base, other, each)
        if found.low > 1 or found.high < 1 or found.high <= found.low * (1 + tight) ** 2:
            break
    assert found is not None
    return Speedup(found.value, found.low, found.high, level, found.n), base, other


def over_allowed(n: int, percentile: float) -> int:
    """t of MLPerf's early stopping: of n samples, t may lie over the p-th percentile's estimate. 0: n is too small.

    The largest t with P(Binomial(n, 1 - p) <= t) <= 1 - 0.99.
    """
    from scipy.special import bdtr

    count = int(np.searchsorted(bdtr(np.arange(n + 1), n, 1 - percentile / 100), 1 - CONFIDENCE, side="right"))
    return max(0, count - 1)


def samples_needed(percentile: float) -> int:
    """Smallest sample that supports a percentile: 11 for p50, 64 for p90, 130 for p95, 662 for p99."""
    n = 2
    while not over_allowed(n, percentile):
        n += 1
    return n


def percentiles(ms: Samples) -> dict[str, float | None]:
    """p50, p90 and p99 as MLPerf estimates them, in milliseconds; None where the sample is too small (11, 64, 662).

    The t - 1 largest samples are dropped and the largest of the rest is reported: with 99 % confidence at least p % of
    all runs are no slower. So "p50" lies above the plain median, the more so the smaller the sample.
    """
    ordered = np.sort(np.asarray(ms, np.float64))
    found: dict[str, float | None] = {}
    for p in (50, 90, 99):
        t = over_allowed(len(ordered), p)
        found[f"p{p}"] = float(ordered[-t]) if t else None
    return found


@dataclass(frozen=True)
class Load:
    """What else ran while the calling thread slept. CPU is counted in cores: 1.0 keeps one core busy."""

    seconds: float
    other_cores: float | None  # everything but this process and its children, on the CPUs usable here
    spinning: tuple[tuple[str, float], ...]  # ("name (pid)", cores) of this process and children that burn CPU idle
    busiest: tuple[tuple[str, float], ...]  # the same of other processes, as far as they can be seen
    stolen_cores: float | None  # taken by the hypervisor
    governor: str | None
    allow: float = QUIET_CORES

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for everything that would disturb a measurement; none on a quiet machine."""
        lines = []
        if (self.other_cores or 0) > self.allow:
            names = ", ".join(f"{name} {cores:.1f}" for name, cores in self.busiest[:3])
            lines.append(f"other processes keep {self.other_cores:.1f} cores busy" + (f": {names}" if names else ""))
        if (self.stolen_cores or 0) > self.allow:
            lines.append(f"the hypervisor takes {self.stolen_cores:.1f} cores away")
        for name, cores in self.spinning:
            lines.append(f"{name} burns {cores:.1f} cores while idle: a thread pool that spins")
        return tuple(lines)

    @property
    def quiet(self) -> bool:
        return not self.notes


def allowance(target: Target, cores: int | None = None) -> float:
    """Cores that others may keep busy while something is timed there.

    Beside a GPU a quarter of those that it leaves idle (it wants one, to be fed by): a machine of 16 cores is never
    without one at work. On a CPU `QUIET_CORES`, however few threads are used: caches and memory are shared.
    `cores`: how many there are to use; by default `default_threads()`.
    """
    if target.kind != "cuda":
        return QUIET_CORES
    return max(QUIET_CORES, ((cores or default_threads()) - 1) / 4)


def busy(seconds: float = 0.5, *, allow: float = QUIET_CORES) -> Load:
    """Sleep and see what the CPU does meanwhile: other processes' load, and pools of our own that spin.

    Call it with nothing running in this process or its children. `allow` is the load, in cores, that passes as quiet.
    """
    import psutil

    usable = usable_cpus()
    own = _family()
    before, cpu0, mine0, wall0 = _cpu_by_process(), _cpu_total(usable), time.process_time(), time.monotonic()
    time.sleep(seconds)
    wall, mine, cpu1, after = (
        time.monotonic() - wall0,
        time.process_time() - mine0,
        _cpu_total(usable),
        _cpu_by_process(),
    )
    used = {pid: (name, (cpu - before[pid][1]) / wall) for pid, (name, cpu) in after.items() if pid in before}
    # For this process the clock around the sleep alone: listing processes burns CPU too.
    used[os.getpid()] = (psutil.Process().name(), mine / wall)
    ours = {pid: found for pid, found in used.items() if pid in own}
    other = stolen = None
    if cpu0 is not None and cpu1 is not None:
        other = max(0.0, (cpu1[0] - cpu0[0]) / wall - sum(cores for _, cores in ours.values()))
        stolen = (cpu1[1] - cpu0[1]) / wall
    rest = {pid: found for pid, found in used.items() if pid not in own}
    return Load(wall, other, _loud(ours, allow), _loud(rest, allow / 3), stolen, governor(), allow)


def _loud(used: dict[int, tuple[str, float]], allow: float) -> tuple[tuple[str, float], ...]:
    found = [(f"{name} ({pid})", cores) for pid, (name, cores) in used.items() if cores > allow]
    return tuple(sorted(found, key=lambda item: -item[1]))


def _family() -> set[int]:
    """This process and its descendants."""
    import psutil

    return {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}


def _cpu_by_process() -> dict[int, tuple[str, float]]:
    """{pid: (name, CPU seconds so far)} of every process that can be seen."""
    import psutil

    found = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        if (times := process.info["cpu_times"]) is not None:
            found[process.pid] = (process.info["name"] or "?", times.user + times.system)
    return found


def _cpu_total(cpus: set[int]) -> tuple[float, float] | None:
    """(busy, stolen) CPU seconds of the given logical CPUs since boot, or None where the system does not tell."""
    import psutil

    try:
        rows = [t for n, t in enumerate(psutil.cpu_times(percpu=True)) if n in cpus]
    except OSError as e:
        # Hardened containers and Android hide /proc/stat; processes are still seen one by one.
        log.info("the CPU counters cannot be read (%s): the load of this machine is unknown", e)
        return None
    stolen = sum(getattr(t, "steal", 0.0) for t in rows)
    work = sum(
        t.user + getattr(t, "nice", 0.0) + t.system + getattr(t, "irq", 0.0) + getattr(t, "softirq", 0.0) for t in rows
    )
    return work, stolen

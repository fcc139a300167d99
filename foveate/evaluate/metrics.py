"""Shares and means with their intervals, and how far outputs of any shape lie apart; what outputs mean, judges know.

Every function that ends in a figure returns a `Result`. scipy is imported where it is used: its statistics take half a
second, which importing foveate must not.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from foveate.errors import InputError
from foveate.result import Result, Tag

Tags = dict[str, Tag]
_BCA_LIMIT = 2_000  # samples; BCa's jackknife costs their square
_SQNR_CAP_DB = 300.0  # identical outputs: JSON has no infinity, and float32 ends near 150 dB
_AT_ONCE = 2**22  # values in float64 at a time, 32 MiB: masks of many photographs would fill the memory


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Signal to quantisation noise: 10 log10(sum reference^2 / sum (reference - other)^2); at most 300 (identical).

    Outputs of any shape [S ...]: logits, embeddings, masks.
    """
    reference, other = paired(reference, other)
    noise = signal = 0.0
    for part in _parts(reference):
        r, o = reference[part].astype(np.float64), other[part].astype(np.float64)
        noise, signal = noise + float(np.sum((r - o) ** 2)), signal + float(np.sum(r**2))
    if noise == 0:
        return _SQNR_CAP_DB
    if signal == 0:
        return -_SQNR_CAP_DB
    return float(np.clip(10 * (np.log10(signal) - np.log10(noise)), -_SQNR_CAP_DB, _SQNR_CAP_DB))


def sqnr(reference: np.ndarray, other: np.ndarray, *, tags: Tags | None = None) -> Result:
    return Result(name="sqnr", value=sqnr_db(reference, other), unit="dB", n=len(reference), tags=tags or {})


def max_abs(reference: np.ndarray, other: np.ndarray, *, tags: Tags | None = None) -> Result:
    """Largest absolute difference of any output, in the outputs' own unit."""
    reference, other = paired(reference, other)
    value = max(float(np.abs(reference[p].astype(np.float64) - other[p]).max()) for p in _parts(reference))
    return Result(name="max_abs", value=value, unit="logits", n=len(reference), tags=tags or {})


def share(name: str, hits: np.ndarray, level: float = 0.95, tags: Tags | None = None) -> Result:
    """Of bool [S]: the share that is true, in %, with Wilson's interval."""
    count, n = int(hits.sum()), len(hits)
    low, high = wilson(count, n, level)
    return Result(
        name=name, value=100 * count / n, unit="%", low=100 * low, high=100 * high, level=level, n=n, tags=tags or {}
    )


def mean_share(name: str, shares: np.ndarray, level: float = 0.95, seed: int = 0) -> Result:
    """Of float [S] in 0..1: their mean in %, with a bootstrap interval over the photographs that stays honest at the
    ends: what no photograph shows, no resample shows either.

    Of photographs that agree wholly, Wilson's interval says how many others like them may hide; each end is at least
    as far from the mean as that, times their share. Where all agree it is Wilson's interval, where none does the
    bootstrap's.
    """
    n, mean = len(shares), float(shares.mean())
    low, high = mean_interval(shares, level, seed)
    hidden = unseen_share(n, level)
    low = max(0.0, min(low, mean - hidden * float((shares == 1).mean())))
    high = min(1.0, max(high, mean + hidden * float((shares == 0).mean())))
    return Result(name=name, value=100 * mean, unit="%", low=100 * low, high=100 * high, level=level, n=n)


def mean_of(
    name: str, values: np.ndarray, unit: str, level: float = 0.95, seed: int = 0, tags: Tags | None = None
) -> Result:
    """Of float [S]: their mean with a bootstrap interval (BCa; percentile above 2,000 samples)."""
    low, high = mean_interval(values, level, seed)
    return Result(
        name=name, value=float(values.mean()), unit=unit, low=low, high=high, level=level, n=len(values),
        tags=tags or {},
    )  # fmt: skip


def lost_points(right: np.ndarray, kept: np.ndarray, level: float = 0.95, tags: Tags | None = None) -> Result:
    """Of bool [S] twice, the same samples answered rightly by one model and by another: right answers lost from the
    first to the second, in percentage points; negative where it gained.

    The interval is Newcombe's for matched pairs (`paired_interval`): unlike a bootstrap it stays honest where the two
    models never differ. Tags: `lost` and `gained` samples and `mcnemar_p`, the exact two-sided p of no difference.
    """
    if len(right) != len(kept):
        raise InputError(f"{len(right)} outputs against {len(kept)}; allowed: the same samples")
    lost, gained = int((right & ~kept).sum()), int((~right & kept).sum())
    low, high = paired_interval(int((right & kept).sum()), lost, gained, int((~right & ~kept).sum()), level)
    own: Tags = {"lost": lost, "gained": gained, "mcnemar_p": mcnemar_p(lost, gained)}
    n = len(right)
    return Result(
        name="drop", value=100 * (lost - gained) / n, unit="points", low=100 * low, high=100 * high, level=level, n=n,
        tags=own | (tags or {}),
    )  # fmt: skip


def wilson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a proportion, both ends in 0..1."""
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def unseen_share(n: int, level: float = 0.95) -> float:
    """The share of photographs that may do what none of `n` did, by Wilson's interval: 1.3 % of 300 at 95 %."""
    return wilson(0, n, level)[1]


def mcnemar_p(lost: int, gained: int) -> float:
    """McNemar's test, exact and two-sided: the discordant pairs are a fair coin's where the models are equally good."""
    from scipy.stats import binomtest

    return 1.0 if lost + gained == 0 else float(binomtest(lost, lost + gained, 0.5).pvalue)


def paired_interval(both: int, lost: int, gained: int, neither: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of p1 - p2 for matched pairs, p1 = (both + lost) / n and p2 = (both + gained) / n.

    Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    Statistics in Medicine 17 (1998), method 10: Wilson's intervals of both, joined through the pairs' correlation phi,
    which is corrected for continuity.
    """
    n = both + lost + gained + neither
    p1, p2 = (both + lost) / n, (both + gained) / n
    (low1, high1), (low2, high2) = wilson(both + lost, n, level), wilson(both + gained, n, level)
    margins = float(both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    cross = float(both) * neither - float(lost) * gained
    cross = max(cross - n / 2, 0.0) if cross > 0 else cross
    phi = cross / np.sqrt(margins) if margins else 0.0
    down = _joined(p1 - low1, high2 - p2, phi)
    up = _joined(high1 - p1, p2 - low2, phi)
    return max(p1 - p2 - down, -1.0), min(p1 - p2 + up, 1.0)


def _joined(a: float, b: float, phi: float) -> float:
    return float(np.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0)))


def mean_interval(values: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the mean of [S]; a point where all values are the same."""
    if np.ptp(values) == 0:  # nothing to resample; scipy would warn and return NaN
        return float(values[0]), float(values[0])
    from scipy.stats import bootstrap

    method = "BCa" if len(values) <= _BCA_LIMIT else "percentile"
    rng = np.random.default_rng(seed)
    interval = bootstrap(
        (values,), np.mean, confidence_level=level, n_resamples=2000, batch=100, method=method, rng=rng
    ).confidence_interval
    return float(interval.low), float(interval.high)


def paired(a: np.ndarray, b: np.ndarray, axes: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Both, `checked` and of the same shape."""
    if np.shape(a) != np.shape(b):
        raise InputError(f"outputs of shape {np.shape(a)} against {np.shape(b)}; allowed: the same")
    return checked(a, axes), checked(b, axes)


def checked(outputs: np.ndarray, axes: Sequence[str] | None = None) -> np.ndarray:
    """Outputs [S ...] as they are, once they are seen to be finite.

    Args:
        axes: what the dimensions are; None: any shape.

    Raises:
        InputError: names the shape, or how many samples are not finite.
    """
    outputs = np.asarray(outputs)
    if not outputs.size or (outputs.ndim != len(axes) if axes else outputs.ndim < 1):
        allowed = f"({', '.join(axes)})" if axes else "(samples, ...)"
        none = "neither" if axes and len(axes) == 2 else "none"
        raise InputError(f"outputs of shape {outputs.shape}; allowed: {allowed}, {none} zero")
    if not np.issubdtype(outputs.dtype, np.floating):
        outputs = outputs.astype(np.float64)
    rest = tuple(range(1, outputs.ndim))
    bad = sum(int((~np.isfinite(outputs[part])).any(axis=rest).sum()) for part in _parts(outputs))
    if bad:
        raise InputError(
            f"the model's outputs are NaN or infinite for {bad} of {len(outputs)} samples; allowed: finite"
        )
    return outputs


def _parts(outputs: np.ndarray) -> Iterator[slice]:
    """The samples, as many at a time as are converted at once; one at least."""
    step = max(1, _AT_ONCE * len(outputs) // outputs.size)
    for at in range(0, len(outputs), step):
        yield slice(at, at + step)

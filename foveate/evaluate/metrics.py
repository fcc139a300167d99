"""How good a model's outputs are, and how far from another model's, each figure with its interval.

Pure numpy and scipy on logits (S classes); every function that ends in a figure returns a `Result`. scipy is imported
where it is used: its statistics take half a second, which importing foveate must not.
"""

from collections.abc import Sequence

import numpy as np

from foveate.errors import InputError
from foveate.result import Result, Tag

Tags = dict[str, Tag]
_BCA_LIMIT = 2_000  # samples; BCa's jackknife costs their square
_SQNR_CAP_DB = 300.0  # identical outputs: JSON has no infinity, and float32 ends near 150 dB


def accuracy(
    logits: np.ndarray, labels: np.ndarray, *, k: int = 1, level: float = 0.95, tags: Tags | None = None
) -> Result:
    """Share of samples whose label is among the `k` largest outputs, in %, with Wilson's interval."""
    hits = _hits(logits, labels, k)
    return _share(f"top{k}", hits, level, tags)


def agreement(dense: np.ndarray, other: np.ndarray, *, level: float = 0.95, tags: Tags | None = None) -> Result:
    """Share of samples on which both models' largest output is the same class, in %, with Wilson's interval."""
    dense, other = _pair(dense, other)
    return _share("agreement", dense.argmax(1) == other.argmax(1), level, tags)


def kl(dense: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(softmax(dense) || softmax(other)) of every sample, in nats, float64 (S,); stable for any finite logits."""
    from scipy.special import log_softmax

    dense, other = _pair(dense, other)
    log_p, log_q = log_softmax(dense, axis=1), log_softmax(other, axis=1)
    # Each term is q - p - p (log q - log p), never negative, and sum q - sum p is 0: nothing cancels over the classes.
    # Where p is near q it is p (exp(d) - 1 - d), taken from its series so that nothing cancels inside a term either.
    p, q, d = np.exp(log_p), np.exp(log_q), log_q - log_p
    near = p * d * d * (0.5 + d * (1 / 6 + d * (1 / 24 + d / 120)))
    return np.where(np.abs(d) < 1e-2, near, q - p - p * d).sum(axis=1)


def mean_kl(
    dense: np.ndarray, other: np.ndarray, *, level: float = 0.95, seed: int = 0, tags: Tags | None = None
) -> Result:
    """Mean of `kl` over the samples, in nats, with a bootstrap interval (BCa; percentile above 2,000 samples)."""
    values = kl(dense, other)
    low, high = _bootstrap_mean(values, level, seed)
    return Result(
        name="kl",
        value=float(values.mean()),
        unit="nats",
        low=low,
        high=high,
        level=level,
        n=len(values),
        tags=tags or {},
    )


def drop(
    dense: np.ndarray, other: np.ndarray, labels: np.ndarray, *, level: float = 0.95, tags: Tags | None = None
) -> Result:
    """Top-1 accuracy lost from `dense` to `other` on the same samples, in percentage points; negative where it gained.

    The interval is Newcombe's for matched pairs (`paired_interval`): unlike a bootstrap it stays honest where the two
    models never differ. Tags: `lost` and `gained` samples and `mcnemar_p`, the exact two-sided p of no difference.
    """
    right, kept = _hits(dense, labels, 1), _hits(other, labels, 1)
    if len(right) != len(kept):
        raise InputError(f"{len(right)} outputs against {len(kept)}; allowed: the same samples")
    lost, gained = int((right & ~kept).sum()), int((~right & kept).sum())
    low, high = paired_interval(int((right & kept).sum()), lost, gained, int((~right & ~kept).sum()), level)
    own: Tags = {"lost": lost, "gained": gained, "mcnemar_p": mcnemar_p(lost, gained)}
    n = len(right)
    return Result(
        name="drop",
        value=100 * (lost - gained) / n,
        unit="points",
        low=100 * low,
        high=100 * high,
        level=level,
        n=n,
        tags=own | (tags or {}),
    )


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Signal to quantisation noise: 10 log10(sum reference^2 / sum (reference - other)^2); at most 300 (identical)."""
    reference, other = _pair(reference, other)
    noise, signal = float(np.sum((reference - other) ** 2)), float(np.sum(reference**2))
    if noise == 0:
        return _SQNR_CAP_DB
    if signal == 0:
        return -_SQNR_CAP_DB
    return float(np.clip(10 * (np.log10(signal) - np.log10(noise)), -_SQNR_CAP_DB, _SQNR_CAP_DB))


def sqnr(reference: np.ndarray, other: np.ndarray, *, tags: Tags | None = None) -> Result:
    return Result(name="sqnr", value=sqnr_db(reference, other), unit="dB", n=len(reference), tags=tags or {})


def max_abs(reference: np.ndarray, other: np.ndarray, *, tags: Tags | None = None) -> Result:
    """Largest absolute difference of any output, in the outputs' own unit."""
    reference, other = _pair(reference, other)
    value = float(np.abs(reference - other).max())
    return Result(name="max_abs", value=value, unit="logits", n=len(reference), tags=tags or {})


def compare(
    dense: np.ndarray,
    other: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    level: float = 0.95,
    seed: int = 0,
    tags: Tags | None = None,
) -> list[Result]:
    """All of the above about `other` beside `dense`: agreement, kl, sqnr, max_abs and, with labels, top1 and drop."""
    results = [
        agreement(dense, other, level=level, tags=tags),
        mean_kl(dense, other, level=level, seed=seed, tags=tags),
        sqnr(dense, other, tags=tags),
        max_abs(dense, other, tags=tags),
    ]
    if labels is not None:
        results.append(accuracy(other, labels, level=level, tags=tags))
        results.append(drop(dense, other, labels, level=level, tags=tags))
    return results


def top(logits: np.ndarray, classes: Sequence[str] | None = None, k: int = 5) -> list[tuple[str, float]]:
    """The `k` likeliest classes of one sample's logits (classes,) with their softmax probabilities, likeliest first."""
    from scipy.special import softmax

    logits = _finite(np.asarray(logits, dtype=np.float64).reshape(1, -1))[0]
    if classes is not None and len(classes) != len(logits):
        raise InputError(f"{len(classes)} class names for {len(logits)} outputs; allowed: one each")
    p = softmax(logits)
    order = [int(i) for i in np.argsort(-p, kind="stable")[:k]]
    return [(f"class {i}" if classes is None else classes[i], float(p[i])) for i in order]


def wilson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a proportion, both ends in 0..1."""
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


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


def _bootstrap_mean(values: np.ndarray, level: float, seed: int) -> tuple[float, float]:
    if np.ptp(values) == 0:  # nothing to resample; scipy would warn and return NaN
        return float(values[0]), float(values[0])
    from scipy.stats import bootstrap

    method = "BCa" if len(values) <= _BCA_LIMIT else "percentile"
    rng = np.random.default_rng(seed)
    interval = bootstrap(
        (values,), np.mean, confidence_level=level, n_resamples=2000, batch=100, method=method, rng=rng
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _share(name: str, hits: np.ndarray, level: float, tags: Tags | None) -> Result:
    count, n = int(hits.sum()), len(hits)
    low, high = wilson(count, n, level)
    return Result(
        name=name, value=100 * count / n, unit="%", low=100 * low, high=100 * high, level=level, n=n, tags=tags or {}
    )


def _hits(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """bool (S,). A tie at the k-th place counts as a miss only if as many outputs are strictly larger."""
    logits, labels = _finite(logits), np.asarray(labels)
    if labels.shape != logits.shape[:1]:
        raise InputError(f"{len(labels)} labels for {len(logits)} outputs; allowed: one each")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise InputError(
            f"label {labels.max()} or {labels.min()}; allowed: 0 to {logits.shape[1] - 1}, the model's classes"
        )
    if k == 1:
        return logits.argmax(1) == labels
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    return (logits > own).sum(1) < k


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(a) != np.shape(b):
        raise InputError(f"outputs of shape {np.shape(a)} against {np.shape(b)}; allowed: the same")
    return _finite(a), _finite(b)


def _finite(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or not logits.size:
        raise InputError(f"outputs of shape {logits.shape}; allowed: (samples, classes), neither zero")
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        raise InputError(f"the model's outputs are NaN or infinite for {bad} of {len(logits)} samples; allowed: finite")
    return logits

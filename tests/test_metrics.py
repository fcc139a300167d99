"""Figures equal known values, and their intervals hold the truth as often as they say."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special

from foveate.errors import InputError
from foveate.evaluate import accuracy, agreement, compare, drop, kl, max_abs, mean_kl, sqnr_db, top
from foveate.evaluate.metrics import mcnemar_p, paired_interval, wilson
from foveate.result import Result, read_results, write_results

LOGITS = arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(2, 6)), elements=st.floats(-50, 50))


def one_hot(answers, classes: int) -> np.ndarray:
    return np.eye(classes)[np.asarray(answers)] * 9.0


def from_counts(both: int, lost: int, gained: int, neither: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dense, other, labels) of two classes with those counts of pairs; the label is always 0."""
    dense = [0] * (both + lost) + [1] * (gained + neither)
    other = [0] * both + [1] * lost + [0] * gained + [1] * neither
    return one_hot(dense, 2), one_hot(other, 2), np.zeros(len(dense), dtype=int)


def test_accuracy_and_agreement_known():
    logits, labels = one_hot([0, 1, 2, 2], 3), np.array([0, 1, 2, 0])
    result = accuracy(logits, labels)
    assert (result.name, result.value, result.unit, result.n, result.level) == ("top1", 75.0, "%", 4, 0.95)
    low, high = wilson(3, 4)
    assert result.low == pytest.approx(100 * low) and result.high == pytest.approx(100 * high)
    assert agreement(logits, one_hot([0, 1, 1, 2], 3)).value == 75.0
    ranks = np.array([[3.0, 2, 1, 0]] * 4)
    assert [accuracy(ranks, np.arange(4), k=k).value for k in (1, 2, 3, 4)] == [25, 50, 75, 100]


def test_wilson_known():
    # Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3
    for hits, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_paired_interval_known():
    # degenerate tables whose answer follows from the formula: no pairs differ, or all do
    low, high = paired_interval(50, 0, 0, 50)
    assert low == pytest.approx(-high) and 0 < high < 0.03  # about three in n, not zero
    assert paired_interval(0, 100, 0, 0)[1] == 1.0
    # swapping the models turns the interval round
    low, high = paired_interval(80, 7, 3, 10)
    swapped = paired_interval(80, 3, 7, 10)
    assert (low, high) == pytest.approx((-swapped[1], -swapped[0])) and low < 0.04 < high


def test_mcnemar_known():
    assert mcnemar_p(0, 0) == 1 and mcnemar_p(5, 5) == 1
    assert mcnemar_p(10, 2) == mcnemar_p(2, 10) == pytest.approx(2 * sum(math.comb(12, i) for i in range(3)) / 2**12)


def test_drop():
    result = drop(*from_counts(80, 7, 3, 10))
    assert result.value == pytest.approx(4.0) and result.unit == "points" and result.n == 100
    assert result.low < 4 < result.high and result.low < 0
    assert result.tags == {"lost": 7, "gained": 3, "mcnemar_p": mcnemar_p(7, 3)}
    assert drop(*from_counts(80, 3, 7, 10)).value == pytest.approx(-4.0)
    assert drop(*from_counts(80, 7, 3, 10), level=0.99).high > result.high


@settings(max_examples=100, deadline=None)
@given(LOGITS)
def test_identical_outputs(logits):
    labels = np.arange(len(logits)) % logits.shape[1]
    results = {r.name: r for r in compare(logits, logits.copy(), labels)}
    assert results["drop"].value == 0 and results["drop"].tags["mcnemar_p"] == 1
    assert results["drop"].low <= 0 <= results["drop"].high
    assert results["agreement"].value == 100 and results["agreement"].low < 100
    assert results["kl"].value == results["kl"].low == results["kl"].high == 0
    assert results["max_abs"].value == 0 and results["sqnr"].value == 300


@settings(max_examples=200, deadline=None)
@given(LOGITS, st.integers(0, 99), st.floats(1e-3, 30))
def test_kl_equals_its_definition(logits, seed, scale):
    other = logits + scale * np.random.default_rng(seed).normal(size=logits.shape)
    p, q = special.softmax(logits, axis=1), special.softmax(other, axis=1)
    assert np.allclose(kl(logits, other), special.rel_entr(p, q).sum(1), rtol=1e-9, atol=1e-12)
    assert (kl(logits, other) >= 0).all()
    shifted = kl(logits + 7, other - 3)  # a softmax does not see a shift
    assert np.allclose(shifted, kl(logits, other), rtol=1e-7, atol=1e-12)


def test_kl_is_stable():
    # near: KL is half the variance of the difference under p, far below what p log p - p log q could resolve
    rng = np.random.default_rng(0)
    x, d = rng.normal(size=(5, 10)), 1e-9 * rng.normal(size=(5, 10))
    p = special.softmax(x, axis=1)
    variance = (p * d**2).sum(1) - (p * d).sum(1) ** 2
    assert np.allclose(kl(x, x + d), variance / 2, rtol=1e-3, atol=0)
    # far: finite where exp would overflow or vanish, and right
    assert kl([[0.0, -2000.0]], [[-2000.0, 0.0]]) == pytest.approx([2000.0])
    assert kl([[1e4, 0.0]], [[1e4, 0.0]]) == [0.0]
    assert kl(np.float32([[90, 0]]), np.float32([[0, 0]])) == pytest.approx([math.log(2)])


def test_mean_kl_is_seeded_and_holds_its_mean():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(40, 5))
    b = a + rng.normal(size=a.shape)
    result = mean_kl(a, b)
    assert result.value == pytest.approx(kl(a, b).mean()) and result.low < result.value < result.high
    assert result == mean_kl(a, b) and result.low != mean_kl(a, b, seed=1).low
    many = rng.normal(size=(2500, 3))
    assert mean_kl(many, many + 1e-2 * rng.normal(size=many.shape)).low > 0
    assert mean_kl(a[:1], b[:1]).n == 1


def test_sqnr_and_max_abs():
    x = np.array([[3.0, 4.0]])
    assert sqnr_db(x, x * 0.9) == pytest.approx(20) and sqnr_db(x, x * 1.001) == pytest.approx(60)
    assert sqnr_db(x, x) == 300 and sqnr_db(0 * x, x) == -300
    assert max_abs(x, x + np.array([[0.25, -0.5]])).value == 0.5


def test_top():
    names = ["a", "b", "c"]
    found = top(np.log([0.2, 0.5, 0.3]), names, k=2)
    assert [name for name, _ in found] == ["b", "c"] and [p for _, p in found] == pytest.approx([0.5, 0.3])
    assert len(top(np.zeros(3), names)) == 3 and top(np.array([0.0, 1]))[0][0] == "class 1"
    assert sum(p for _, p in top(np.array([1e4, -1e4, 0.0]))) == pytest.approx(1)
    with pytest.raises(InputError, match="2 class names for 3 outputs"):
        top(np.zeros(3), ["a", "b"])


def test_results_survive_a_file(tmp_path):
    dense, other, labels = from_counts(20, 3, 2, 5)
    results = compare(dense, other, labels, tags={"runtime": "eager"})
    assert [r.name for r in results] == ["agreement", "kl", "sqnr", "max_abs", "top1", "drop"]
    assert all(r.tags["runtime"] == "eager" and r.n == 30 for r in results)
    path = write_results(tmp_path / "results.jsonl", results)
    assert read_results(path) == results
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert [r.name for r in compare(dense, other)] == ["agreement", "kl", "sqnr", "max_abs"]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: kl(x, x[:2]), r"shape \(3, 2\) against \(2, 2\)"),
        (lambda x: kl(x, np.where(x > 0, np.nan, x)), "NaN or infinite for 1 of 3"),
        (lambda x: accuracy(x * np.inf, np.zeros(3, int)), "NaN or infinite"),
        (lambda x: accuracy(x, np.zeros(2, int)), "2 labels for 3 outputs"),
        (lambda x: accuracy(x, np.array([0, 1, 2])), "allowed: 0 to 1"),
        (lambda x: accuracy(x, np.array([0, 1, -1])), "allowed: 0 to 1"),
        (lambda x: agreement(x[:0], x[:0]), "neither zero"),
        (lambda x: drop(x, x[:1], np.zeros(3, int)), "labels"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(InputError, match=message) as e, np.errstate(invalid="ignore"):
        call(np.array([[0.0, -1], [1, 0], [-1, -2]]))
    assert "\n" not in str(e.value)


# Coverage: the share of simulated studies whose interval holds the truth. A nominal 95 % interval that fell below the
# bound asserted would be wrong far more often than it says; each assertion has a case beside it that fails the bound.


def covered(intervals: list[tuple[float, float]], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def test_wilson_covers():
    rng = np.random.default_rng(0)
    for p, n in [(0.5, 40), (0.9, 100), (0.99, 372)]:
        hits = rng.binomial(n, p, size=400)
        found = {int(h): wilson(int(h), n) for h in set(hits)}
        assert covered([found[int(h)] for h in hits], p) >= 0.92
    naive = [(h / n - 1.96 * math.sqrt(h / n * (1 - h / n) / n), 1.0) for h in hits]
    assert covered(naive, p) < 0.999 and covered([(h / n, 1.0) for h in hits], p) < 0.92


@pytest.mark.parametrize("shares", [(0.85, 0.03, 0.02, 0.10), (0.6, 0.12, 0.03, 0.25), (0.97, 0.01, 0.01, 0.01)])
def test_paired_interval_covers_and_is_narrower_than_unpaired(shares):
    rng = np.random.default_rng(1)
    truth = shares[1] - shares[2]
    tables = rng.multinomial(200, shares, size=400)
    found = [paired_interval(*map(int, table)) for table in tables]
    assert covered(found, truth) >= 0.92
    width = np.mean([high - low for low, high in found])
    apart = [(wilson(int(a + b), 200), wilson(int(a + c), 200)) for a, b, c, _ in tables]
    assert width < np.mean([math.hypot(*(high - low for low, high in pair)) for pair in apart])  # phi = 0
    thirds = [(value - width / 6, value + width / 6) for value in (tables[:, 1] - tables[:, 2]) / 200]
    assert covered(thirds, truth) < 0.92


def test_mean_kl_covers(monkeypatch):
    from foveate.evaluate import metrics

    rng = np.random.default_rng(2)
    truth = math.exp(0.5)  # the mean of a log-normal: as skewed as divergences are
    found = [metrics.mean_interval(values, 0.95, 0) for values in rng.lognormal(size=(120, 80))]
    assert covered(found, truth) >= 0.86


def test_a_result_reads_well():
    assert isinstance(accuracy(one_hot([0, 1], 2), np.array([0, 1])), Result)
    assert str(drop(*from_counts(80, 7, 3, 10))).startswith("drop 4 [")

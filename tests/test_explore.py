"""Where the latency-workload profile is measured: few points, and every cliff found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.planners.table import Curve
from foveate.profiling.explore import coarse_grid, explore

LOW, HIGH = 24, 197


def edges(points):
    tokens = sorted(points)
    return _table(Curve(tokens=tokens, ms=[points[n] for n in tokens])).right_edges(tokens[0], tokens[-1])


def _table(curve):
    from foveate.planners.table import LatencyTable

    return LatencyTable(fixed_ms=0, block=curve, attention=curve)


def explored(latency, budget=96, **kwargs):
    return explore(lambda counts: [latency(n) for n in counts], LOW, HIGH, budget, **kwargs)


def stairs(*cliffs, height=0.15):
    return lambda n: 10 * (1 + height) ** sum(n > c for c in cliffs)


# name: (latency of n, points of the curve that must have been found, most points)
CURVES = {
    "one cliff": (stairs(128), {128, 129}, 20),
    "cliffs as on a TX2": (stairs(32, 64, 128, height=0.4), {32, 33, 64, 65, 128, 129}, 24),
    "an odd cliff": (stairs(101), {101, 102}, 24),
    "two in one interval": (stairs(131, 139), {131, 132, 139, 140}, 28),
    "a cliff on a slope": (lambda n: n / 20 + 4 * (n > 128), {128, 129}, 34),
    "a hump": (lambda n: 10 + 2 * (128 < n <= 145) + (n > 128), {128, 129, 145, 146}, 26),
    "a drop": (lambda n: 10 - (n > 96), {96, 97}, 20),
    "a step every 16": (lambda n: 4.0 + -(-n // 16), {n for k in range(32, 193, 16) for n in (k, k + 1)}, 45),
    "a sawtooth of four": (lambda n: n / 10 * (1 + 0.06 * (n % 4 > 0)), {192, 196, 197}, 40),
    "flat": (lambda n: 10.0, {128, 197}, 15),
    "a straight line": (lambda n: 2 + n / 10, {128, 197}, 32),
    "a parabola": (lambda n: 2 + n / 20 + n * n / 4000, {128, 197}, 34),
    "a period of 16 on a parabola": (lambda n: 2 + (-(-n // 16)) ** 2 / 20, {64, 65, 128, 129, 176, 177}, 46),
}


@pytest.mark.parametrize("name", CURVES)
def test_cliffs_are_found_to_one_token_in_few_points(name):
    latency, needed, most = CURVES[name]
    found = explored(latency)
    assert found.complete and needed <= found.points.keys() and len(found.points) <= most
    assert all(found.points[n] == latency(n) for n in found.points)


@pytest.mark.parametrize("name", CURVES)
def test_the_candidates_hold_the_last_fast_count_before_every_cliff(name):
    """On the explored points, the edges are true right edges: no larger count of all is as fast."""
    latency, _, _ = CURVES[name]
    wanted = {e for e in edges({n: latency(n) for n in range(LOW, HIGH + 1)}) if latency(e) <= 0.95 * latency(e + 1)}
    found = set(edges(explored(latency).points))
    if name == "a sawtooth of four":  # every fourth count is one; the largest is what matters
        wanted = {196}
    assert wanted - {LOW, HIGH} <= found


@settings(deadline=None, max_examples=100)
@given(cliff=st.integers(LOW, HIGH - 1), height=st.floats(0.07, 1), slope=st.floats(0, 0.02), seed=st.integers(0, 99))
def test_any_single_cliff_is_found_under_noise(cliff, height, slope, seed):
    rng = np.random.default_rng(seed)
    noise = {n: 1 + 0.004 * rng.uniform(-1, 1) for n in range(LOW, HIGH + 1)}
    found = explored(lambda n: (10 * (1 + height * (n > cliff)) + slope * n) * noise[n])
    assert {cliff, cliff + 1} <= found.points.keys() and len(found.points) <= 60


def test_a_coarse_grid_alone_would_miss_the_cliff():
    """The check above can fail."""
    assert not {101, 102} <= set(coarse_grid(LOW, HIGH))


@pytest.mark.parametrize("budget", [1, 5, 17])
def test_the_budget_holds(budget):
    found = explored(stairs(32, 64, 100, 128, 150), budget)
    assert len(found.points) == budget and not found.complete


def test_time_that_is_over_ends_it():
    left = iter([4, 4, 2])

    def measure(counts):
        return [10.0] * min(len(counts), next(left))

    found = explore(measure, LOW, HIGH, 96)
    assert len(found.points) == 10 and not found.complete


def test_known_points_cost_nothing():
    first, asked = explored(stairs(101)), []
    again = explore(asked.extend, LOW, HIGH, 0, known=first.points)
    assert again == first and not asked


@pytest.mark.parametrize("low, high", [(3, 4), (3, 3), (8, 50), (32, 257), (128, 1025), (200, 4097)])
def test_the_grid_has_both_ends_and_stays_small(low, high):
    grid = coarse_grid(low, high)
    assert {low, high} <= set(grid) <= set(range(low, high + 1)) and len(set(grid)) == len(grid) <= 24
    assert explore(lambda c: [float(n) for n in c], low, high, 96).complete

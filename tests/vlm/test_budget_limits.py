"""The search for the most tokens within a limit: curves that are known, staircases, noise."""

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import InputError
from foveate.vlm.limits import MOST_COUNTS, NEAR, upper_median, within_limit


def curve(tokens: int, base: float, slope: float, step: int) -> float:
    return base + slope * (-(-tokens // step) * step)


@settings(deadline=None, max_examples=200)
@given(
    st.floats(1, 500),
    st.floats(0.001, 2),
    st.sampled_from([1, 8, 64]),
    st.integers(2, 3000),
    st.floats(0.2, 1.5),
)
def test_what_is_found_keeps_within_and_near(base: float, slope: float, step: int, most: int, share: float):
    limit = share * curve(most, base, slope, step)
    found = within_limit(lambda n, times: [curve(n, base, slope, step)] * times, limit, most)
    assert len(found.seen) <= MOST_COUNTS
    if limit >= curve(most, base, slope, step):
        assert found.tokens == most
    elif limit < curve(1, base, slope, step):
        assert found.tokens is None
    else:
        got = curve(found.tokens, base, slope, step)
        assert got <= limit
        # near the limit, as far as the next step of the staircase lets it
        next_step = curve(min(most, found.tokens + max(step, found.tokens // 50 + 1)), base, slope, step)
        assert got >= (1 - NEAR) * limit or next_step > (1 - NEAR) * limit


def test_a_little_noise_leaves_it_near_the_limit():
    lot = random.Random(0)
    for _ in range(50):
        measure = lambda n, times: [(100 + 0.3 * n) * lot.gauss(1, 0.02) for _ in range(times)]
        found = within_limit(measure, 400, 2880)
        assert 100 + 0.3 * found.tokens <= 400 * 1.02 and 100 + 0.3 * found.tokens >= 400 * 0.9


@pytest.mark.parametrize("burst", [0.0, 0.2])
def test_noise_does_not_let_a_limit_be_broken(burst: float):
    """The median of the count that is found, told by its curve, against the limit: over in no more than 1 of 50."""
    lot = random.Random(0)
    noise = lambda: lot.gauss(1, 0.05) + (abs(lot.gauss(0, 0.3)) if lot.random() < burst else 0)
    over = 0
    for _ in range(200):
        measure = lambda n, times: [(100 + 0.3 * n) * noise() for _ in range(times)]
        found = within_limit(measure, 400, 2880)
        told = statistics.median(measure(found.tokens, 501))
        over += told > 400
        assert 400 * 0.8 <= told <= 400 * 1.03
    assert over <= 4


@given(st.integers(4, 40), st.integers(0, 1000))
def test_the_upper_end_lies_above_the_median_as_often_as_it_says(n: int, seed: int):
    lot = random.Random(seed)
    above = [upper_median([lot.expovariate(1) for _ in range(n)]) >= math.log(2) for _ in range(400)]
    assert sum(above) >= 0.83 * 400


def test_the_upper_end_of_few_values_is_the_largest():
    assert upper_median([1, 3, 2]) == 3 and upper_median([5.0]) == 5.0
    assert upper_median([float(n) for n in range(1, 10)]) == 7  # P(at most 6 of 9 below the median) = 0.91


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_no_limit(limit: float):
    with pytest.raises(InputError, match="above 0"):
        within_limit(lambda n, times: [1.0] * times, limit, 10)

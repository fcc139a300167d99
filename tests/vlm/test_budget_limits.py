"""The search for the most tokens within a limit: curves that are known, staircases, noise."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import InputError
from foveate.vlm.limits import MOST_COUNTS, NEAR, within_limit


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


def test_noise_does_not_let_a_limit_be_broken():
    lot = random.Random(0)
    for _ in range(50):
        measure = lambda n, times: [(100 + 0.3 * n) * lot.gauss(1, 0.02) for _ in range(times)]
        found = within_limit(measure, 400, 2880)
        assert 100 + 0.3 * found.tokens <= 400 * 1.02 and 100 + 0.3 * found.tokens >= 400 * 0.9


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_no_limit(limit: float):
    with pytest.raises(InputError, match="above 0"):
        within_limit(lambda n, times: [1.0] * times, limit, 10)

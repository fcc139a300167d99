"""Sharing a number of tokens out among parts of a picture: whole numbers that sum up exactly. No torch."""

import math
from collections.abc import Sequence


def waterfill(tokens: int, shares: Sequence[float], capacities: Sequence[int]) -> list[int]:
    """Tokens a part in proportion to `shares`, none above its capacity, the sum exact.

    A part whose share is more than it can take is filled, and the others share what is left; what rounding leaves
    goes to the largest fractions, of equal ones to the first. Shares that are no finite positive numbers count as 0;
    where all that are left do, capacities are the shares.

    Returns:
        as many as there are parts, with sum min(tokens, sum(capacities)).

    >>> waterfill(10, [3, 1, 0], [4, 9, 9])
    [4, 6, 0]
    """
    given = [0] * len(capacities)
    share = [s if math.isfinite(s) and s > 0 else 0.0 for s in map(float, shares)]
    active = [i for i, room in enumerate(capacities) if room > 0]
    left = min(tokens, sum(capacities))
    while active and left > 0:
        # by the largest share, not by the sum: of numbers near the largest float the sum is none any more
        largest = max(share[i] for i in active)
        weight = {i: share[i] / largest if largest > 0 else float(capacities[i]) for i in active}
        total = math.fsum(weight.values())
        quota = {i: left * weight[i] / total for i in active}
        full = [i for i in active if quota[i] >= capacities[i]]
        if not full:
            _round(given, quota, left)
            break
        for i in full:
            given[i] = capacities[i]
            left -= capacities[i]
        active = [i for i in active if i not in full]
    return given


def _round(given: list[int], quota: dict[int, float], total: int) -> None:
    """Largest remainders: write whole numbers with sum `total` into `given`."""
    for i, exact in quota.items():
        given[i] = math.floor(exact)
    rest = total - sum(given[i] for i in quota)
    for i in sorted(quota, key=lambda i: (given[i] - quota[i], i))[:rest]:
        given[i] += 1

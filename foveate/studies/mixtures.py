"""Mixtures of experts with a softmax or a sigmoid gate, and their least squares.

    f(x) = sum_i g_i(x) h(w_i x + v_i)        s_i(x) = sum_k a_ik x_k^2 + b_i x + c_i
    softmax: g_i = exp(s_i) / sum_j exp(s_j)      sigmoid: g_i = 1 / (1 + exp(-s_i))

The quadratic score of Yan et al. (arXiv:2502.00281), whose matrix is diagonal here. Plain numpy in float64.

Shape letters: m points, d inputs, k atoms (an expert with its gate), p = 3 d + 2 parameters of an atom, in the order
a, b, c, w, v.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

GATES = ("softmax", "sigmoid")
EXPERTS = ("tanh", "relu", "linear")
BOX = 4.0  # parameters stay within plus and minus that
STEPS, TRIES = 300, 12
TOLERANCE = 1e-12


class Rows(NamedTuple):
    """Where an atom's parameters are among its p."""

    square: slice
    slope: slice
    offset: slice
    weight: slice
    bias: slice


def rows(d: int) -> Rows:
    """
    >>> rows(1)
    Rows(square=slice(0, 1, None), slope=slice(1, 2, None), offset=slice(2, 3, None), weight=slice(3, 4, None), \
bias=slice(4, 5, None))
    """
    return Rows(slice(0, d), slice(d, 2 * d), slice(2 * d, 2 * d + 1), slice(2 * d + 1, 3 * d + 1),
                slice(3 * d + 1, 3 * d + 2))  # fmt: skip


@dataclass(frozen=True)
class Mixture:
    """A gate and a kind of expert; parameters [p k] are given with every question."""

    gate: str
    expert: str
    d: int = 1

    def __call__(self, x: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """x [m d], theta [p k] -> [m]."""
        gates, values, *_ = self._parts(x, theta)
        return (gates * values).sum(1)

    def jacobian(self, x: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """f [m] and its derivatives by all parameters [m p k]."""
        gates, values, by_score, by_value = self._parts(x, theta)
        f = (gates * values).sum(1)
        in_score = np.concatenate([x * x, x, np.ones((len(x), 1))], 1)  # what a, b and c stand with
        in_value = np.concatenate([x, np.ones((len(x), 1))], 1)
        parts = [in_score[:, :, None] * by_score[:, None], in_value[:, :, None] * by_value[:, None]]
        return f, np.concatenate(parts, 1)

    def _parts(self, x: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, ...]:
        """Gates, experts' values, df/ds and df/du, each [m k]."""
        at = rows(self.d)
        score = (x * x) @ theta[at.square] + x @ theta[at.slope] + theta[at.offset]
        u = x @ theta[at.weight] + theta[at.bias]
        if self.expert == "tanh":
            values = np.tanh(u)
            slope = 1 - values**2
        elif self.expert == "relu":
            values, slope = np.maximum(u, 0), (u > 0).astype(float)
        else:
            values, slope = u, np.ones_like(u)
        if self.gate == "sigmoid":
            gates = 0.5 * (1 + np.tanh(score / 2))
            by_score = gates * (1 - gates) * values
        else:
            gates = np.exp(score - score.max(1, keepdims=True))
            gates /= gates.sum(1, keepdims=True)
            by_score = gates * (values - (gates * values).sum(1, keepdims=True))
        return gates, values, by_score, gates * slope


def least_squares(
    mixture: Mixture, x: np.ndarray, y: np.ndarray, start: np.ndarray, free: np.ndarray, *, steps: int = STEPS,
    box: float = BOX,
) -> tuple[np.ndarray, float]:  # fmt: skip
    """Levenberg and Marquardt's method within a box -> parameters [p k] and the mean squared error that is left.

    Args:
        x: [m d]. y: [m].
        start: [p k]. free: [p k], those that may move.
    """
    theta, damping = np.clip(start, -box, box), 1e-3
    theta = np.where(free, theta, start)
    f, slopes = mixture.jacobian(x, theta)
    loss = float(np.square(y - f).mean())
    for _ in range(steps):
        j = slopes[:, free]
        square, gradient = j.T @ j / len(x), j.T @ (y - f) / len(x)
        diagonal = np.diag(square) + 1e-10
        found = None
        for _ in range(TRIES):
            moved = theta.copy()
            moved[free] += np.linalg.solve(square + damping * np.diag(diagonal), gradient)
            moved = np.where(free, np.clip(moved, -box, box), theta)
            left = float(np.square(y - mixture(x, moved)).mean())
            if left < loss:
                found = moved, left
                break
            damping *= 4
        if found is None:
            break
        gained, (theta, loss), damping = loss - found[1], found, max(damping / 5, 1e-9)
        f, slopes = mixture.jacobian(x, theta)
        if gained < TOLERANCE * loss:
            break
    return theta, loss

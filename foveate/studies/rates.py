"""How fast mixtures of experts learn: settings, one fit, and slopes with intervals.

A reconstruction of the experiment of Yan et al. (arXiv:2502.00281), whose settings are not published: a truth of two
atoms, three fitted, so that one of the truth's is over-specified; sample sizes log-spaced, warm starts, the slope of
log error over log n. In one dimension the design is fixed and replicated: n samples on a grid of 256 are its points
with a noise of n/256 times less variance, which has the same least squares at a cost that n does not change.

What is recorded of a fit: the distance of its function to the true one, and to the best one of its kind (`best`, found
without noise; where the truth is of another gate or none at all, these differ); the Voronoi loss; the error of the
over-specified expert and of the exact one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from foveate.studies.mixtures import Mixture, least_squares, rows

GRID, HALF = 256, 4.0
FITTED = 3  # atoms of a fit; of a truth two
WARM = (0.02, 0.1, 0.3)  # how far from where it should end a fit begins, the best of these counts
ERRORS = ("function", "to best", "voronoi", "over-specified", "exact")
TRUTHS = ("softmax", "sigmoid", "neither")


@dataclass(frozen=True)
class Setting:
    """A gate that is fitted, to data of a truth.

    Args:
        gate, expert: of what is fitted.
        truth: `softmax` or `sigmoid`, with the same experts, or `neither`: a small network of tanh.
        sparse: the over-specified atom's score does not hang on x.
        full: scores have a linear part as well as the quadratic one.
        noise: standard deviation.
    """

    gate: str
    expert: str
    truth: str
    sparse: bool = False
    full: bool = True
    noise: float = 0.1

    @property
    def name(self) -> str:
        regime = "" if self.truth == "neither" else ", sparse" if self.sparse else ", dense"
        return f"{self.gate} {self.expert} on {self.truth}{regime}{'' if self.full else ', partial'}"

    @property
    def own(self) -> bool:
        """Is the truth of the kind that is fitted?"""
        return self.gate == self.truth

    @cached_property
    def mixture(self) -> Mixture:
        return Mixture(self.gate, self.expert)

    @cached_property
    def atoms(self) -> np.ndarray:
        """The truth's, [p 2]: the over-specified one first. Of a truth of neither kind, where fits begin."""
        at, found = rows(1), np.zeros((5, 2))
        found[at.square] = [0.0 if self.sparse else 0.4, 0.0]
        found[at.slope] = [0.0 if self.sparse or not self.full else 1.2, 0.0]
        found[at.offset] = [-0.5, 0.0]
        found[at.weight], found[at.bias] = [1.0, -1.0], [0.5, -0.8]
        if (self.gate if self.truth == "neither" else self.truth) == "sigmoid":
            found[at.square, 1], found[at.slope, 1], found[at.offset, 1] = -0.5, -1.0 * self.full, 0.3
        return found

    @cached_property
    def values(self) -> np.ndarray:
        """Of the true function on the grid, [m]."""
        if self.truth != "neither":
            return Mixture(self.truth, self.expert)(grid(), self.atoms)
        lot = np.random.default_rng(7)
        found = np.tanh(grid() @ lot.normal(0, 1.5, (1, 8)) + lot.normal(0, 2, 8)) @ lot.normal(0, 0.5, 8)
        return 0.9 * found / np.abs(found).max()  # within what a mean of tanh can reach

    @cached_property
    def free(self) -> np.ndarray:
        """[p k]: what may move. A softmax's scores count up to a constant function, so the last one's are held."""
        at, found = rows(1), np.ones((5, FITTED), bool)
        if not self.full:
            found[at.slope] = False
        if self.gate == "softmax":
            found[: at.weight.start, -1] = False
        return found

    @cached_property
    def start(self) -> np.ndarray:
        """The truth with its first atom twice, a softmax's weight halved between the two: [p k]."""
        found = np.concatenate([self.atoms[:, :1], self.atoms[:, :1], self.atoms[:, 1:]], 1)
        if self.gate == "softmax":
            found[rows(1).offset, :2] -= np.log(2)
        return found


def settings() -> tuple[Setting, ...]:
    """All that `foveate study moe-rates` runs: each gate on its own truth, and both on common ones."""
    own = [
        Setting(gate, expert, gate, sparse, full)
        for gate in ("softmax", "sigmoid")
        for expert in ("tanh", "relu", "linear")
        for sparse, full in ((False, True), (True, True), (False, False))
    ]
    common = [Setting(gate, "tanh", truth) for truth in TRUTHS for gate in ("softmax", "sigmoid")]
    return tuple(dict.fromkeys([*own, *common]))


@lru_cache(maxsize=1)
def grid() -> np.ndarray:
    """[m 1]."""
    return np.linspace(-HALF, HALF, GRID)[:, None]


@lru_cache(maxsize=64)
def best(setting: Setting) -> tuple[np.ndarray, float]:
    """The parameters that fit the true function best without noise, and the mean squared error that they leave."""
    lot, found = np.random.default_rng(11), []
    for i in range(30):
        start = setting.start + (0.05 if i == 0 else 0.5) * lot.standard_normal(setting.start.shape) * setting.free
        found.append(least_squares(setting.mixture, grid(), setting.values, start, setting.free, steps=800))
    return min(found, key=lambda each: each[1])


def errors(setting: Setting, n: int, seed: Sequence[int]) -> dict[str, float]:
    """One sample of n, one fit, its errors. The same seed gives the same ones."""
    lot = np.random.default_rng(seed)
    y = setting.values + setting.noise * np.sqrt(GRID / n) * lot.standard_normal(GRID)
    ideal, _ = best(setting)
    base = setting.start if setting.own and (setting.gate == "softmax" or setting.sparse) else ideal
    fits = []
    for spread in WARM:
        start = base + spread * lot.standard_normal(base.shape) * setting.free
        fits.append(least_squares(setting.mixture, grid(), y, start, setting.free))
    theta = min(fits, key=lambda each: each[1])[0]
    f = setting.mixture(grid(), theta)
    found = {
        "function": rms(f - setting.values),
        "to best": rms(f - setting.mixture(grid(), ideal)),
    }
    return found | (parameter_errors(setting, theta) if setting.own else {})


def parameter_errors(setting: Setting, theta: np.ndarray) -> dict[str, float]:
    """Of a fit to a truth of its own kind, by the Voronoi cells of the true atoms.

    The loss of the softmax: sum over cells of |sum e^c - e^c*|, of cells with one atom also e^c |distance|, of others
    e^c |distance|^2. Of the sigmoid gate, to which nothing is invariant: |distance|^2 in a cell with several, else
    |distance|. Experts' errors are root mean squares over a cell, weighed by the gate's e^c.
    """
    at, truth = rows(1), setting.atoms
    cells = np.square(theta[:, :, None] - truth[:, None]).sum(0).argmin(1)
    weight = np.exp(theta[at.offset, :][0])
    loss, experts = 0.0, list[float]()
    for j in range(truth.shape[1]):
        mine = np.flatnonzero(cells == j)
        apart = np.sqrt(np.square(theta[:, mine] - truth[:, [j]]).sum(0))
        near = np.sqrt(np.square(theta[at.weight.start :, mine] - truth[at.weight.start :, [j]]).sum(0))
        power = 1 if len(mine) == 1 else 2
        if setting.gate == "softmax":
            rest = np.sqrt(
                np.square((theta - truth[:, [j]])[np.r_[: at.offset.start, at.weight.start : 5]][:, mine]).sum(0)
            )
            loss += abs(weight[mine].sum() - np.exp(truth[at.offset, j][0])) + float((weight[mine] * rest**power).sum())
        else:
            loss += float((apart**power).sum())
        experts.append(float(np.sqrt((weight[mine] * near**2).sum() / weight[mine].sum())) if len(mine) else np.nan)
    return {"voronoi": float(loss), "over-specified": experts[0], "exact": experts[1]}


def medians(found: np.ndarray) -> np.ndarray:
    """[sizes repeats] -> [sizes], of those that are numbers; nan where none is."""
    return np.array([np.median(row[~np.isnan(row)]) if not np.isnan(row).all() else np.nan for row in found])


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.square(x).mean()))


@dataclass(frozen=True)
class Rate:
    """The slope of log error over log n, by least squares on the medians over repeats; 95 % by bootstrap of these."""

    slope: float
    low: float
    high: float


def rate(sizes: Sequence[int], found: np.ndarray, seed: int = 0, draws: int = 2000) -> Rate:
    """found [sizes repeats]; what is no number (a cell without an atom) is left out.

    >>> sizes = (100, 1000, 10000)
    >>> round(rate(sizes, np.array([[n**-0.5] * 3 for n in sizes])).slope, 6)
    -0.5
    """
    lot, x = np.random.default_rng(seed), np.log(np.asarray(sizes, float))

    def slope(of: np.ndarray) -> float:
        y = np.log(np.maximum(medians(of), 1e-300))
        kept = np.isfinite(y)
        return float(np.polyfit(x[kept], y[kept], 1)[0]) if kept.sum() > 1 else float("nan")

    drawn = [slope(np.stack([row[lot.integers(0, len(row), len(row))] for row in found])) for _ in range(draws)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Rate(slope(found), float(low), float(high))

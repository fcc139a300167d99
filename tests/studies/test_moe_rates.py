"""Mixtures of experts: slopes of known samples, derivatives, Voronoi losses, and a run that goes on."""

import json

import numpy as np
import pytest

from foveate.errors import InputError
from foveate.report.rates import write_rates
from foveate.studies.mixtures import EXPERTS, GATES, Mixture, least_squares, rows
from foveate.studies.moe_rates import Design, study
from foveate.studies.rates import Setting, errors, parameter_errors, rate, settings

SMALL = Design(low=1000, high=100_000, sizes=2, repeats=2, only="linear on softmax, sparse")


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("expert", EXPERTS)
@pytest.mark.parametrize("gate", GATES)
def test_derivatives(gate: str, expert: str, d: int):
    lot = np.random.default_rng(0)
    mixture, x, theta = Mixture(gate, expert, d), lot.normal(size=(20, d)), lot.normal(size=(3 * d + 2, 3))
    f, slopes = mixture.jacobian(x, theta)
    assert np.allclose(f, mixture(x, theta))
    for place in np.ndindex(theta.shape):
        step = np.zeros_like(theta)
        step[place] = 1e-6
        wanted = (mixture(x, theta + step) - mixture(x, theta - step)) / 2e-6
        assert np.allclose(slopes[:, place[0], place[1]], wanted, atol=1e-7)


@pytest.mark.parametrize("gate", GATES)
def test_a_mixture_by_its_formula(gate: str):
    lot = np.random.default_rng(1)
    x, theta = lot.normal(size=(5, 2)), lot.normal(size=(8, 3))
    at = rows(2)
    for point, found in zip(x, Mixture(gate, "tanh", 2)(x, theta), strict=True):
        scores = [
            sum(theta[at.square, i] * point**2) + theta[at.slope, i] @ point + theta[at.offset, i][0] for i in range(3)
        ]
        experts = [np.tanh(theta[at.weight, i] @ point + theta[at.bias, i][0]) for i in range(3)]
        weights = np.exp(scores) / np.exp(scores).sum() if gate == "softmax" else 1 / (1 + np.exp(-np.array(scores)))
        assert found == pytest.approx(float(weights @ experts))


def test_least_squares_finds_the_truth_and_stays_in_its_box():
    setting = Setting("softmax", "tanh", "softmax")
    mixture, x = setting.mixture, np.linspace(-4, 4, 200)[:, None]
    y, free = mixture(x, setting.atoms), np.ones((5, 2), bool)
    free[:3, 1] = False
    start = setting.atoms + 0.2 * np.random.default_rng(0).normal(size=(5, 2)) * free
    theta, left = least_squares(mixture, x, y, start, free)
    assert left < 1e-16 and np.allclose(theta, setting.atoms, atol=1e-6)
    theta, _ = least_squares(mixture, x, 100 * y, start, free, box=2.0)
    assert np.abs(theta[free]).max() <= 2.0


def test_voronoi_losses_by_hand():
    setting = Setting("softmax", "tanh", "softmax")
    theta = setting.start.copy()
    found = parameter_errors(setting, theta)
    assert found == {"voronoi": pytest.approx(0, abs=1e-12), "over-specified": 0, "exact": 0}
    theta[3, 0] += 0.1  # one of the two that stand for one, by its expert's weight: a square, times its gate's e^c
    theta[4, 2] -= 0.2  # the exact one: a distance
    c = np.exp(theta[2])
    found = parameter_errors(setting, theta)
    assert found["voronoi"] == pytest.approx(c[0] * 0.01 + c[2] * 0.2)
    assert found["over-specified"] == pytest.approx(np.sqrt(c[0] * 0.01 / (c[0] + c[1])))
    assert found["exact"] == pytest.approx(0.2)
    theta[2, :2] += 0.3
    more = np.exp(theta[2, :2]).sum() - np.exp(setting.atoms[2, 0])
    assert parameter_errors(setting, theta)["voronoi"] > found["voronoi"] + more
    sigmoid = Setting("sigmoid", "tanh", "sigmoid")
    theta = sigmoid.start.copy()
    theta[0, 1] += 0.1
    assert parameter_errors(sigmoid, theta)["voronoi"] == pytest.approx(0.01)


def test_slopes_of_known_errors():
    sizes, lot = (100, 1000, 10_000, 100_000), np.random.default_rng(0)
    made = np.stack([n**-0.25 * np.exp(0.1 * lot.normal(size=30)) for n in sizes])
    found = rate(sizes, made)
    assert found.low < -0.25 < found.high and found.high - found.low < 0.05
    made[1, :] = np.nan
    assert rate(sizes, made).slope == pytest.approx(-0.25, abs=0.02)


def test_settings_have_names_of_their_own_and_regimes():
    names = [s.name for s in settings()]
    assert len(set(names)) == len(names) and {s.truth for s in settings()} == {"softmax", "sigmoid", "neither"}
    sparse = Setting("sigmoid", "tanh", "sigmoid", sparse=True)
    assert not sparse.atoms[:2, 0].any() and sparse.atoms[:2, 1].all()
    for truth in ("softmax", "sigmoid", "neither"):  # both gates see the same data
        a, b = (Setting(gate, "tanh", truth).values for gate in GATES)
        assert np.array_equal(a, b)


@pytest.mark.slow
def test_rates_of_the_pilot():
    """Over six decades: the function at -1/2; the over-specified tanh expert of a softmax at -1/4."""
    sizes, setting = [10**k for k in range(3, 10)], Setting("softmax", "tanh", "softmax")
    found = [[errors(setting, n, (1, n, i)) for i in range(12)] for n in sizes]
    slope = {e: rate(sizes, np.array([[r[e] for r in row] for row in found])).slope for e in found[0][0]}
    assert slope["function"] == pytest.approx(-0.5, abs=0.08)
    assert slope["over-specified"] == pytest.approx(-0.26, abs=0.08)
    assert slope["exact"] == pytest.approx(-0.5, abs=0.15)


def test_the_same_seed_gives_the_same_figures():
    setting = settings()[0]
    assert errors(setting, 1000, (0, 1)) == errors(setting, 1000, (0, 1)) != errors(setting, 1000, (0, 2))


class Stopped(Exception):
    pass


def test_a_run_goes_on_where_it_was_broken_off(tmp_path):
    def stop(stage: str, share: float, text: str) -> None:
        if 0 < share < 1:
            raise Stopped

    whole = study(tmp_path / "whole", SMALL, processes=1)
    with pytest.raises(Stopped):
        study(tmp_path / "broken", SMALL, processes=1, progress=stop)
    kept = [p.name for p in (tmp_path / "broken/units").iterdir()]
    assert kept and not (tmp_path / "broken/rates.json").exists()
    times = {name: (tmp_path / "broken/units" / name).stat().st_mtime_ns for name in kept}
    study(tmp_path / "broken", SMALL, processes=2)
    assert all((tmp_path / "broken/units" / name).stat().st_mtime_ns == t for name, t in times.items())
    texts = [(tmp_path / name / "rates.json").read_text() for name in ("whole", "broken")]
    assert texts[0] == texts[1]
    assert {r["error"] for r in whole.rates()} == {"function", "to best", "voronoi", "over-specified", "exact"}
    told = json.loads(texts[0])
    assert told["sizes"] == [1000, 100_000] and len(told["rates"][0]["medians"]) == 2
    page = write_rates(tmp_path / "whole").read_text()
    assert "linear on softmax, sparse" in page and "&lt;br" not in page
    with pytest.raises(InputError, match="is a run with repeats 2"):
        study(tmp_path / "whole", SMALL.model_copy(update={"repeats": 3}))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(InputError, match="holds something else"):
        study(tmp_path / "other", SMALL)


def test_what_is_asked_is_checked(capsys):
    from foveate.cli import app

    with pytest.raises(InputError, match="no setting contains 'cosine'"):
        Design(only="cosine").chosen()
    with pytest.raises(InputError, match="as many as rise there"):
        Design(low=10, high=12, sizes=9).counts()
    for words, said in ((["--repeats", "1"], "repeats is 1"), (["--processes", "0"], "--processes 0")):
        with pytest.raises(InputError, match=said):
            app(["study", "moe-rates", *words], standalone_mode=False)

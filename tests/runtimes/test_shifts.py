"""Weights of shift layers in an OpenVINO file: half of int8's bytes, the same answers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foveate.linears import ShiftLinear, for_inference, format_of
from foveate.runtimes import RUNTIMES
from foveate.runtimes._shifts import TABLE, UNIT, coded

IMAGE = (3, 4, 8)


def weight(seed: int = 0, o: int = 40, i: int = 32) -> np.ndarray:
    lot = torch.Generator().manual_seed(seed)
    return format_of("pot4").encode(0.03 * torch.randn(o, i, generator=lot)).weight().numpy()


def test_the_table_is_the_formats():
    assert np.array_equal(TABLE[:15], format_of("pot4").table.numpy())
    assert np.array_equal(TABLE / UNIT, (TABLE / UNIT).round()) and np.abs(TABLE / UNIT).max() <= 127


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**31), spread=st.floats(1e-6, 1e4))
def test_codes_are_exact(seed: int, spread: float):
    w = weight(seed, 5, 9) * np.float32(spread)
    found = coded(w)
    assert found is not None and np.array_equal(TABLE[found.codes] * found.scale, w)


def test_rows_of_zeros_have_codes():
    w = weight()
    w[3] = 0
    found = coded(w)
    assert found is not None and found.scale[3] == 1 and np.array_equal(TABLE[found.codes] * found.scale, w)


@pytest.mark.parametrize("kind", ["one weight off", "eight octaves", "random", "two terms", "nan", "infinite"])
def test_what_is_none_of_shifts_has_none(kind: str):
    w = weight()
    if kind == "one weight off":
        w[7, 5] = np.nextafter(w[7, 5] or np.float32(0.01), np.float32(1))
        w[7, 6] = np.abs(w[7]).max()
    elif kind == "eight octaves":
        w[2, :2] = np.abs(w[2]).max() * np.float32([1, 2.0**-7])
    elif kind == "random":
        w = torch.randn(4, 5).numpy()
    elif kind == "two terms":
        w = format_of("apot2").encode(torch.randn(8, 64)).weight().numpy()
    else:
        w[1, 1] = np.nan if kind == "nan" else np.inf
    with np.errstate(invalid="ignore"):
        assert coded(w) is None


class Layers(nn.Module):
    """A shift layer between two ordinary ones, on pixels as tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 64), nn.Linear(128, 5)
        self.shift = ShiftLinear(nn.Linear(64, 128))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.first(x.flatten(2).mT).relu()
        return self.last(self.shift(tokens).relu()).mean(1)

    def for_inference(self) -> nn.Module:
        found = Layers()
        found.load_state_dict(self.state_dict())
        found.shift = for_inference(self.shift)
        return found


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_layer_in_a_file(tmp_path, precision: str):
    runtime = RUNTIMES["openvino"]
    if (reason := runtime.why_not(precision)) is not None:
        pytest.skip(reason)
    model, x = Layers().eval(), torch.randn(16, *IMAGE, generator=torch.Generator().manual_seed(1))
    path = runtime.build(
        model, tmp_path / "coded", shape=(1, *IMAGE), precision=precision, calibration=x.numpy()
    )  # fmt: skip
    run = runtime.load(path, precision=precision, threads=1)
    found = np.concatenate([run(x[i : i + 1].numpy()) for i in range(16)])
    wanted = model(x).detach().numpy()
    noise = np.square(found - wanted).mean() / np.square(wanted - wanted.mean(0)).mean()
    assert noise < (1e-10 if precision == "fp32" else 0.02)
    weights = path.with_suffix(".bin").stat().st_size
    rest = 64 * 3 + 5 * 128 + 64 + 128 + 5  # other weights, biases
    assert 64 * 128 / 2 + 4 * 128 <= weights <= 64 * 128 / 2 + 4 * 128 + 4 * rest + 2048

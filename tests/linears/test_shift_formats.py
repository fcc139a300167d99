"""Shift formats: tables, rounding, packing, what eight bits mean, and layers that learn through them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foveate.errors import InputError
from foveate.linears import FORMATS, ShiftLinear, format_of
from foveate.linears.formats import unpacked
from foveate.linears.shift import SignsAndShifts, by_shifts, terms

NAMES = sorted(FORMATS)


def weights(seed: int, o: int = 12, i: int = 20, spread: float = 0.05) -> torch.Tensor:
    return spread * torch.randn(o, i, generator=torch.Generator().manual_seed(seed))


def quality(name: str) -> float:
    """Signal over what rounding leaves, in dB, of Gaussian weights."""
    w = weights(0, 256, 768, 0.02)
    error = format_of(name).encode(w).weight() - w
    return float(10 * torch.log10(w.square().sum() / error.square().sum()))


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_a_sum_of_signed_powers_of_two(name: str):
    format = format_of(name)
    total = sum(sign * torch.exp2(power.double()) * (sign != 0) for power, sign in terms(format))
    assert torch.equal(total, format.table.double())
    assert torch.equal(format.table, format.table.sort().values) and len(format.table.unique()) == len(format.table)
    assert torch.equal(format.table, -format.table.flip(0))


def test_sizes_of_the_tables():
    assert {n: (len(f.table), f.bits) for n, f in FORMATS.items()} == {
        "ps5": (31, 5), "pot4": (15, 4), "apot2": (31, 5),
    }  # fmt: skip


def test_quality_of_gaussian_weights():
    # rounding in the logarithm gives ps5 13.7 dB; by value it is better
    assert quality("ps5") == pytest.approx(14.1, abs=0.1)
    assert quality("pot4") == pytest.approx(14.5, abs=0.1)
    assert quality("apot2") == pytest.approx(22.6, abs=0.1)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), spread=st.floats(1e-6, 100))
def test_rounding_is_to_the_nearest(name: str, seed: int, spread: float):
    format, w = format_of(name), weights(seed, 4, 9, spread)
    found = format.encode(w)
    distance = (w[..., None] - format.table * found.scale[:, None, None]).abs()
    mine = (w - found.weight()).abs()
    assert torch.allclose(mine, distance.amin(-1), rtol=1e-5, atol=1e-7 * spread)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 11), (16, 16)])
def test_codes_are_packed_and_unpacked(name: str, shape: tuple[int, int]):
    found = format_of(name).encode(weights(1, *shape))
    packed = found.packed()
    assert torch.equal(unpacked(packed, found.format, shape), found.codes)
    scales = 4 * shape[0] if found.format.scaled else 0
    assert found.bytes == packed.numel() + scales == math.ceil(shape[0] * shape[1] * found.format.bits / 8) + scales


def test_packed_codes_that_are_no_codes():
    format = format_of("pot4")
    with pytest.raises(InputError, match="3 bytes of codes for 2x2"):
        unpacked(torch.zeros(3, dtype=torch.uint8), format, (2, 2))
    with pytest.raises(InputError, match="code 15; pot4 has 15"):
        unpacked(torch.full((2,), 255, dtype=torch.uint8), format, (2, 2))


@pytest.mark.parametrize("name", ["pot4", "apot2"])
def test_eight_bits_mean_the_same(name: str):
    found = format_of(name).encode(weights(2))
    integers = found.integers()
    assert integers is not None
    whole, scale = integers
    assert whole.dtype == torch.int8
    assert torch.equal(whole.float() * scale[:, None], found.weight())


def test_fifteen_octaves_need_more_than_eight_bits_of_integer_but_fit_a_float_of_eight():
    found = format_of("ps5").encode(weights(3))
    assert found.integers() is None
    assert torch.equal(found.weight().to(torch.float8_e5m2).float(), found.weight())
    assert torch.equal((found.weight() * 2**8).to(torch.float8_e4m3fn).float(), found.weight() * 2**8)
    assert torch.equal(found.weight().bfloat16().float(), found.weight())


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_zeros_stays_one(name: str):
    w = weights(4)
    w[3] = 0
    found = format_of(name).encode(w)
    assert (found.weight()[3] == 0).all() and found.scale[3] == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", NAMES)
def test_a_weight_that_is_no_number(name: str, bad: float):
    w = weights(5)
    w[2, 7] = bad
    with pytest.raises(InputError, match=r"weight \[2, 7\] is .*; 1 of them"):
        format_of(name).encode(w)


def test_exponents_out_of_range_are_the_nearest_in_range():
    w = torch.tensor([[5.0, -3.0, 2.0**-15, 2.0**-16, -(2.0**-14), 0.0]])
    assert format_of("ps5").encode(w).weight().tolist() == [[1.0, -1.0, 0.0, 0.0, -(2.0**-14), 0.0]]


def test_unknown_names():
    with pytest.raises(InputError, match="unknown format 'pot3'; known: apot2, pot4, ps5"):
        format_of("pot3")
    with pytest.raises(InputError, match="learn 'scales'; allowed: weights, shifts"):
        ShiftLinear(nn.Linear(4, 4), learn="scales")
    with pytest.raises(InputError, match="in format ps5, not pot4"):
        ShiftLinear(nn.Linear(4, 4), learn="shifts")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("name", "learn"), [*((n, "weights") for n in NAMES), ("ps5", "shifts")])
def test_a_layer_is_its_by_shifts(name: str, learn: str, bias: bool):
    torch.manual_seed(0)
    layer, x = ShiftLinear(nn.Linear(20, 12, bias=bias), format=name, learn=learn), torch.randn(3, 5, 20)
    wanted = by_shifts(x, layer.codes(), layer.bias)
    assert torch.allclose(layer(x).double(), wanted, atol=1e-6)
    assert torch.equal(layer.for_inference()(x), layer(x))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_pass_the_rounding(name: str):
    """Of a weight in range as if nothing were rounded; of a scale what rounding adds, and what clipping takes."""
    torch.manual_seed(0)
    layer = ShiftLinear(nn.Linear(6, 4, bias=False), format=name)
    held, x, wanted = layer.weights, torch.randn(5, 6), torch.randn(5, 4)
    with torch.no_grad():
        held.weight[1, 2] = 9.0
    layer(x).backward(wanted)
    full = wanted.T @ x
    inside = torch.ones(4, 6, dtype=torch.bool)
    if held.scale is not None:
        inside = (held.weight / held.scale[:, None]).abs() <= held.table[-1]
        assert not inside[1, 2] and inside.float().mean() > 0.7
    assert torch.allclose(held.weight.grad, full * inside, atol=1e-6)
    if held.scale is not None:
        value = held().detach()
        each = torch.where(inside, value - held.weight.detach(), value)
        assert torch.allclose(held.log_scale.grad, (full * each).sum(1), atol=1e-5)


def test_gradients_of_signs_and_shifts():
    held = SignsAndShifts(weights(6), format_of("ps5"))
    given_ = torch.randn(12, 20, generator=torch.Generator().manual_seed(7))
    value = held()
    value.backward(given_)
    assert torch.equal(held.sign.grad, given_)
    assert torch.allclose(held.shift.grad, given_ * value.detach() * math.log(2))


@pytest.mark.parametrize(("name", "learn"), [*((n, "weights") for n in NAMES), ("ps5", "shifts")])
def test_a_layer_learns(name: str, learn: str):
    torch.manual_seed(0)
    x, truth = torch.randn(256, 16), nn.Linear(16, 8)
    layer = ShiftLinear(nn.Linear(16, 8), format=name, learn=learn)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    loss = lambda: (layer(x) - truth(x)).square().mean()
    first = float(loss().detach())
    for _ in range(150):
        optimizer.zero_grad()
        (step := loss()).backward()
        optimizer.step()
    assert float(step.detach()) < 0.25 * first

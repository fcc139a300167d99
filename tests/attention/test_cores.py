"""Attention variants: each against its formula, and the laws that all of them keep."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from foveate.attention import CORES, Core
from foveate.attention.hashed_linear import BITS, HashedLinear, KernelHash, _Bit
from foveate.attention.sigmoid import Sigmoid
from foveate.errors import InputError

KINDS = [*((name, {}) for name in sorted(CORES)), ("hashed_linear", {"quantiser": "ksh"}), ("sigmoid", {"bias": -3.0})]
HEADS = 3


def made(kind: tuple[str, dict], width: int = 8, tokens: int = 30) -> Core:
    """A core whose weights are none of those that add nothing, its hash fitted."""
    return deepcopy(_made(kind[0], tuple(kind[1].items()), width, tokens))


@cache
def _made(name: str, options: tuple[tuple[str, object], ...], width: int, tokens: int) -> Core:
    torch.manual_seed(0)
    core = CORES[name].of(HEADS, width, tokens, **dict(options))
    with torch.no_grad():
        for parameter in core.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    core(*qkv(4, tokens, width, seed=99))
    return core.eval()


def qkv(batch: int, tokens: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    lot = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, HEADS, tokens, width, generator=lot) for _ in range(3))  # type: ignore[return-value]


def sizes(batch: int, tokens: int) -> Tensor:
    return torch.randint(1, 5, (batch, tokens), generator=torch.Generator().manual_seed(5)).float()


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize(("tokens", "width"), [(1, 8), (2, 5), (30, 8), (41, 7)])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_core_is_its_formula(kind: tuple[str, dict], tokens: int, width: int, merged: bool):
    core, given = made(kind, width), qkv(2, tokens, width)
    size = sizes(2, tokens) if merged else None
    found = core(*given, size)
    assert found.shape == given[2].shape
    assert torch.allclose(found.double(), core.reference(*given, size), atol=2e-6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_alone_is_as_in_a_batch(kind: tuple[str, dict]):
    core, given = made(kind), qkv(5, 30, 8)
    size = sizes(5, 30)
    whole = core(*given, size)
    for n in range(5):
        assert torch.allclose(core(*(x[n : n + 1] for x in given), size[n : n + 1]), whole[n : n + 1], atol=1e-6)


@pytest.mark.parametrize("kind", [k for k in KINDS if CORES[k[0]].copies], ids=str)
def test_a_merged_token_is_worth_its_copies(kind: tuple[str, dict]):
    core, (q, k, v) = made(kind), qkv(1, 12, 8)
    size = sizes(1, 12)
    index = torch.arange(12).repeat_interleave(size[0].long())
    wanted = core(q[:, :, index], k[:, :, index], v[:, :, index])
    assert torch.allclose(core(q, k, v, size)[:, :, index], wanted, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_its_products_are_counted(kind: tuple[str, dict]):
    core, given = made(kind), qkv(1, 30, 8)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        core(*given)
    counted = counter.get_total_flops() // 2
    assert core.macs(30, HEADS, 8) == counted


@pytest.mark.parametrize("kind", [("softmax", {}), ("sigmoid", {}), ("sigmoid", {"bias": -2.0})], ids=str)
def test_gradients_are_those_of_the_formula(kind: tuple[str, dict]):
    core = made(kind)
    given, doubles = qkv(2, 10, 8), tuple(x.double() for x in qkv(2, 10, 8))
    for x in (*given, *doubles):
        x.requires_grad_()
    weight = torch.randn(2, HEADS, 10, 8)
    (core(*given) * weight).sum().backward()
    (core.reference(*doubles) * weight).sum().backward()
    for mine, wanted in zip(given, doubles, strict=True):
        assert mine.grad is not None and wanted.grad is not None
        assert torch.allclose(mine.grad.double(), wanted.grad, atol=1e-5)


def test_the_gates_of_a_row_sum_to_one_at_first():
    q, k, _ = qkv(2, 197, 64)
    for tokens in (197, 64):
        ones = torch.ones(2, HEADS, tokens, 64)
        mass = Sigmoid()(0.02 * q[:, :, :tokens], k[:, :, :tokens], ones)
        assert mass.mean() == pytest.approx(1, abs=0.02)


def test_keys_may_be_split():
    core, (q, k, v) = Sigmoid(bias=-3.0), qkv(1, 30, 8)
    parts = core(q, k[:, :, :11], v[:, :, :11]) + core(q, k[:, :, 11:], v[:, :, 11:])
    assert torch.allclose(parts, core(q, k, v), atol=1e-6)


def test_a_key_of_no_size_says_nothing():
    q, k, v = qkv(1, 12, 8)
    size = torch.ones(1, 12)
    size[0, 5:] = 0
    short = Sigmoid()(q, k[:, :, :5], v[:, :, :5])
    assert torch.allclose(Sigmoid()(q, k, v, size), short, atol=1e-6)


def test_a_bit_passes_gradients_on_its_ramp():
    x = torch.tensor([-2.0, -0.4, -0.1, 0.1, 0.4, 2.0], requires_grad=True)
    bit = _Bit.apply(x, 0.5)
    bit.backward(torch.ones(6))
    assert bit.tolist() == [0, 0, 0, 1, 1, 1]
    assert x.grad is not None and x.grad.tolist() == [0, 0, 2, 2, 0, 0]


def test_thresholds_are_learnt():
    torch.manual_seed(0)
    core = CORES["hashed_linear"].of(HEADS, 8, 30)
    q, k, v = (x.requires_grad_() for x in qkv(2, 30, 8))
    (core(q, k, v) * torch.randn(2, HEADS, 30, 8)).sum().backward()
    for name, parameter in core.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert q.grad is not None and q.grad.abs().sum() > 0


def test_a_hash_is_fitted_once_and_travels_with_the_weights():
    x = torch.nn.functional.normalize(qkv(3, 40, 8)[0], dim=-1)
    first, second = KernelHash(HEADS, 8), KernelHash(HEADS, 8)
    codes = first(x)
    assert bool(first.fitted) and torch.equal(second(x), codes)
    other = torch.nn.functional.normalize(qkv(3, 40, 8, seed=1)[0], dim=-1)
    told = first(other)  # in training still, and not fitted again
    loaded = KernelHash(HEADS, 8)
    loaded.load_state_dict(first.state_dict())
    assert torch.equal(loaded(other), told) and torch.equal(loaded(x), codes)
    assert codes.shape[-1] == BITS and 0.2 < float(codes.mean()) < 0.8


def test_codes_agree_more_between_tokens_that_are_alike():
    """What the hash is for: of random tokens, the likest share more bits than the unlikest."""
    x = torch.nn.functional.normalize(qkv(4, 60, 8)[0], dim=-1)
    codes = KernelHash(HEADS, 8)(x)
    agree = 1 - (codes[..., :, None, :] - codes[..., None, :, :]).abs().mean(-1)
    cosine = x @ x.mT
    near, far = cosine.topk(6, dim=-1).indices[..., 1:], (-cosine).topk(5, dim=-1).indices
    assert agree.gather(-1, near).mean() > agree.gather(-1, far).mean() + 0.2


def test_fewer_tokens_than_anchors():
    core = CORES["hashed_linear"].of(HEADS, 8, 4, quantiser="ksh")
    assert core(*qkv(2, 4, 8)).isfinite().all()


def test_wrong_options():
    with pytest.raises(InputError, match="quantiser 'mean'; allowed: threshold, ksh"):
        HashedLinear(heads=2, width=8, quantiser="mean")
    with pytest.raises(InputError, match="bias nan"):
        Sigmoid(bias=float("nan"))
    with pytest.raises(InputError, match="unknown attention 'sigmoids'"):
        CORES["sigmoids"]

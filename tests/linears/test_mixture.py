"""The mixture of a multiplying and a shifting expert: gates, balance, counts, and what was wrong elsewhere."""

import copy

import pytest
import torch
from torch import nn

from foveate.errors import InputError
from foveate.linears import LINEARS, LinearVariant, Routed, ShiftLinear, for_inference, latency_aware_loss
from foveate.linears.mixture import MULTIPLY, NOISE, Mixture, balance_of

KINDS = [
    *((name, {}) for name in sorted(LINEARS)),
    ("shift", {"format": "ps5", "learn": "shifts"}),
    ("shift", {"format": "apot2"}),
    ("mixture", {"gate": "probability", "ratio": 3.0}),
]


def made(kind: tuple[str, dict], i: int = 6, o: int = 9) -> LinearVariant:
    """A variant whose router prefers something."""
    torch.manual_seed(0)
    layer = LINEARS[kind[0]].of(nn.Linear(i, o), **kind[1])
    for name, parameter in layer.named_parameters():
        if "router" in name:
            nn.init.normal_(parameter)
    return layer.eval()


def tokens(batch: int = 3, n: int = 20, width: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, n, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [1, 2, 20, 33])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_variant_is_its_formula(kind: tuple[str, dict], n: int):
    layer, x = made(kind), tokens(2, n)
    found = layer(x)
    assert found.shape == (2, n, 9)
    assert torch.allclose(found.double(), layer.reference(x), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_alone_is_as_in_a_batch(kind: tuple[str, dict]):
    layer, x = made(kind), tokens(4)
    whole = layer(x)
    assert all(torch.allclose(layer(x[i : i + 1]), whole[i : i + 1], atol=1e-6) for i in range(4))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_deployed_answers_alike(kind: tuple[str, dict]):
    layer, x = made(kind), tokens()
    deployed = for_inference(layer)
    assert torch.equal(deployed(x), layer(x))
    assert not any(isinstance(m, ShiftLinear) for m in deployed.modules())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_around_an_mlp_weights_come_along(kind: tuple[str, dict]):
    mlp = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))
    found = LINEARS[kind[0]].around(mlp, 6, **kind[1]).eval()
    assert found(tokens()).shape == (3, 20, 6)
    assert type(mlp[0]) is nn.Linear  # the given one stays as it was
    before = copy.deepcopy(mlp)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(1.0)
    assert torch.equal(mlp(tokens()), before(tokens()))


def test_the_layers_of_an_mlp_share_one_route():
    mlp = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))
    found = Mixture.around(mlp, 6)
    assert isinstance(found, Routed) and sum(isinstance(m, Routed) for m in found.modules()) == 1
    with pytest.raises(InputError, match="without linear layers"):
        Mixture.around(nn.GELU(), 6)


def test_the_count_is_the_inverse_of_the_latencies():
    layer = made(("mixture", {"ratio": 3.0}))
    assert layer.routed.count(20) == 5
    seen = []
    for expert in layer.routed.experts.children():
        expert.register_forward_hook(lambda m, given, out: seen.append(given[0].shape[1]))
    layer(tokens())
    assert seen == [5, 15]


def test_those_stay_that_prefer_shifting_least():
    layer, x = made(("mixture", {})).routed, tokens(1)
    margin = layer.router.logits(x)[0] @ torch.tensor([1.0, -1.0])
    first = margin.argsort(descending=True)[: layer.count(20)]
    multiplied = torch.zeros(20, dtype=torch.bool).index_fill(0, first, True)
    wanted = torch.where(multiplied[:, None], layer.experts[0](x[0]), layer.experts[1](x[0]))
    assert torch.allclose(layer(x)[0], wanted, atol=1e-6)


def test_before_training_it_is_the_layer_that_it_was_made_of():
    torch.manual_seed(0)
    layer = nn.Linear(6, 9)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.sign() * 0.5)  # powers of two, so that both experts are the same
    for found in (Mixture(layer), Mixture(layer).train()):
        assert torch.allclose(found(tokens()), layer(tokens()), atol=1e-6)


@pytest.mark.parametrize("gate", ["straight", "probability"])
def test_gates_multiply_and_teach_the_router(gate: str):
    """The released code adds log g where it should multiply by g, and its router has no gradient."""
    layer, x = made(("mixture", {"gate": gate})).routed.train(), tokens()
    torch.manual_seed(3)
    y = layer(x)
    torch.manual_seed(3)
    logits = layer.router.logits(x.flatten(0, 1))
    chosen = (logits + NOISE * torch.randn_like(logits)).argmax(-1)
    p = logits.softmax(-1).gather(1, chosen[:, None])
    both = torch.stack([expert(x.flatten(0, 1)) for expert in layer.experts.children()])
    wanted = both[chosen, torch.arange(60)] * (1.0 if gate == "straight" else p)
    assert torch.allclose(y.flatten(0, 1), wanted, atol=1e-6)
    goal = torch.randn_like(y)
    (y * goal).sum().backward()
    weight = (both[chosen, torch.arange(60)] * goal.flatten(0, 1)).sum(-1, keepdim=True).detach()
    (slope,) = torch.autograd.grad((weight * (p.log() if gate == "straight" else p)).sum(), layer.router.weight)
    assert torch.allclose(layer.router.weight.grad, slope, atol=1e-5) and slope.abs().max() > 0.01


def test_small_outputs_are_not_cut_off():
    """The released code floors what is below -36 and overflows above 88."""
    layer, x = made(("mixture", {"gate": "probability"})).routed, tokens()
    with torch.no_grad():
        for part in layer.experts.modules():
            if isinstance(part, nn.Linear):
                part.bias.fill_(-500)
    assert layer(x).min() < -200 and layer.train()(x).min() < -200


def test_an_expert_without_tokens():
    layer, x = made(("mixture", {})).routed.train(), tokens().abs()
    with torch.no_grad():
        layer.router.weight.copy_(torch.stack([torch.full((6,), 100.0), torch.full((6,), -100.0)]))
    y = layer(x)
    y.sum().backward()
    assert torch.allclose(y, layer.experts[MULTIPLY](x), atol=1e-6)
    shift = [p.grad for p in layer.experts[1].parameters()]
    assert all(g is not None and not g.any() for g in shift)
    assert layer.balance is not None and layer.balance.isfinite()


def test_no_token_at_all_and_one_alone():
    layer = made(("mixture", {}))
    assert layer(tokens(2, 0)).shape == (2, 0, 9)
    assert layer(tokens(2, 1)).shape == (2, 1, 9)
    assert layer.routed.count(1) == 0


@pytest.mark.parametrize("latency", [(1.0, 1.0), (6.0, 4.0), (1.0, 9.0)])
def test_balance_is_zero_where_both_experts_take_equally_long(latency: tuple[float, float]):
    share = torch.tensor([latency[1], latency[0]]) / sum(latency)
    logits = share.log().expand(50, 2)
    even = torch.tensor(latency) / sum(latency)
    # Under endless noise q is one half each, which leaves the spread of the latencies themselves.
    left = float(even.var(correction=0) / even.mean() ** 2)
    assert float(latency_aware_loss(logits, logits, latency, noise=1e9)) == pytest.approx(left, abs=1e-5)


def test_balance_by_its_formula():
    lot = torch.Generator().manual_seed(0)
    logits, more = torch.randn(30, 2, generator=lot), torch.randn(30, 2, generator=lot)
    noisy, latency = logits + more, (6.0, 4.0)
    importance, load = [0.0, 0.0], [0.0, 0.0]
    for clean, drawn in zip(logits.double(), noisy.double(), strict=True):
        for e in (0, 1):
            importance[e] += latency[e] / 10 * float(clean.softmax(-1)[e])
            load[e] += latency[e] / 10 * float(torch.special.ndtr((clean[e] - drawn[1 - e]) / NOISE))
    wanted = sum(((a - b) / 2) ** 2 / ((a + b) / 2) ** 2 for a, b in (importance, load))
    assert float(latency_aware_loss(logits, noisy, latency)) == pytest.approx(wanted, rel=1e-5)


def test_balance_teaches_the_share_that_the_latencies_ask_for():
    torch.manual_seed(0)
    layer, x = Mixture(nn.Linear(6, 6), ratio=3.0).routed.train(), tokens(8, 64)
    x[..., 0] = 1  # something to lean on
    optimizer = torch.optim.Adam(layer.router.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        layer(x)
        balance_of(layer).backward()
        optimizer.step()
    logits = layer.router.logits(x.flatten(0, 1))
    noisy = logits + NOISE * torch.randn_like(logits)
    assert float((noisy.argmax(-1) == MULTIPLY).float().mean()) == pytest.approx(0.25, abs=0.05)


def test_refusals():
    layer = nn.Linear(4, 4)
    for options, said in (
        ({"ratio": 0}, "ratio 0"), ({"ratio": float("nan")}, "ratio nan"), ({"gate": "hard"}, "gate 'hard'"),
        ({"format": "int3"}, "int3"), ({"learn": "nothing"}, "learn 'nothing'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            Mixture(layer, **options)
    with torch.no_grad():
        layer.weight[1, 2] = float("nan")
    with pytest.raises(InputError, match=r"weight \[1, 2\] is nan"):
        Mixture(layer)


def test_a_layer_keeps_its_type_of_number():
    layer = ShiftLinear(nn.Linear(4, 4).double())
    assert for_inference(layer)(tokens(width=4).double()).dtype is torch.float64

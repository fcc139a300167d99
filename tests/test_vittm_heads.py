"""ViTTM's heads, one of each kind, against what they mean: values, gradients, sizes and order."""

import pytest
import torch
from support.families import shaken
from support.reference import by_tokens, explicit

from foveate.models.vittm import HEADS
from foveate.models.vittm.heads import Fusion


def streams(targets=7, sources=9):
    generator = torch.Generator().manual_seed(2)
    make = lambda n: torch.randn(2, n, 16, dtype=torch.float64, generator=generator, requires_grad=True)
    return make(targets), make(sources)


def made(name):
    torch.manual_seed(0)
    return shaken(HEADS[name](16, 2, 8, 9, 7)).double()


@pytest.mark.parametrize("sized", [False, True])
def test_the_published_head_is_its_formula_in_values_and_gradients(sized):
    head, (target, source) = made("lin"), streams()
    size = torch.randint(1, 4, (2, 9)).double() if sized else None
    ours, theirs = head(target, source, size), explicit(head, target, source, size)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    inputs = (target, source, *head.parameters())
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), inputs) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", ["ca", "lca", "la", "tl"])
def test_the_other_heads_are_their_formulas_in_values_and_gradients(name):
    head, (target, source) = made(name), streams()
    ours, theirs = head(target, source), by_tokens(name, head, target, source)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    inputs = (target, source, *head.parameters())
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), inputs) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", sorted(HEADS))
@torch.no_grad()
def test_a_source_token_of_size_two_is_two_copies_of_it(name):
    head, (target, source) = made(name), streams()
    size = torch.ones(2, 9, dtype=torch.float64)
    size[:, 8] = 2
    twice = torch.cat([source, source[:, 8:]], dim=1)
    torch.testing.assert_close(head(target, source, size), head(target, twice), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["lin", "ca", "lca", "la"])
@torch.no_grad()
def test_source_tokens_have_no_order_and_target_tokens_keep_theirs(name):
    head, (target, source) = made(name), streams()
    want = head(target, source)
    torch.testing.assert_close(head(target, source[:, torch.randperm(9)]), want, atol=1e-12, rtol=1e-12)
    order = torch.randperm(7)
    torch.testing.assert_close(head(target[:, order], source), want[:, order], atol=1e-12, rtol=1e-12)


@torch.no_grad()
def test_keys_all_alike_read_the_mean():
    head, (target, source) = made("lin"), streams()
    head.kv.weight[: head.latent] = 0
    mean = head.kv(source)[..., head.latent :].mean(1, keepdim=True).expand(-1, 7, -1)
    torch.testing.assert_close(head(target, source), mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion", ["add", "erase", "add_erase"])
@torch.no_grad()
def test_fusions(fusion):
    fuse, (target, _), (taken, _) = shaken(Fusion(fusion, 16, 7)).double(), streams(), streams()
    taken = taken.flip(-1)
    out = fuse(target, taken)
    if fusion == "add_erase":
        gate = torch.sigmoid(fuse.gate(taken.mean(1)))
        want = torch.stack([torch.stack([(1 - g) * t + g * o for g, t, o in zip(*row, strict=True)])
                            for row in zip(gate, target, taken, strict=True)])  # fmt: skip
    else:
        want = target + taken if fusion == "add" else taken
    torch.testing.assert_close(out, want)

"""Every registered method against the laws, and against a slow reference written from its formula."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import faults, laws, reference
from support.laws import LAWS, ONE, TRACERS, Case, Make, declared, roped, sourced, world

from foveate.adapters import restore
from foveate.errors import InputError
from foveate.methods import METHODS, Merger, Reducer, Scorer
from foveate.methods._base import Signal
from foveate.tokens import Signals, Tokens

NAME = pytest.mark.parametrize("name", sorted(METHODS))
NAMED = {"random", "uniform", "topk", "evit", "pomt", "pomt_published", "ats", "ppt", "tome", "pitome", "tofu"}
# What a method of the literature breaks by design; each has its own test below.
EXEMPT = {("evit", "law_mean"), *((name, "law_alone") for name, cls in METHODS.items() if not cls.per_image)}


@NAME
@pytest.mark.parametrize("law", LAWS)
def test_law(name: str, law: str):
    if (name, law) in EXEMPT:
        with pytest.raises(AssertionError):
            LAWS[law](METHODS[name])
    else:
        LAWS[law](METHODS[name])


@NAME
@pytest.mark.parametrize("law", TRACERS)
def test_tracers(name: str, law: str):
    TRACERS[law](METHODS[name])


@pytest.mark.parametrize("name", ["evit", "ppt"])
def test_onnx(name: str):
    laws.law_onnx(METHODS[name])


@pytest.mark.slow
@NAME
def test_every_tracer_early_and_late(name: str):
    for law in (laws.law_compile, laws.law_export, laws.law_onnx):
        law(METHODS[name], depths=(0.25, 0.75))


@pytest.mark.slow
@NAME
def test_openvino(name: str):
    laws.law_onnx(METHODS[name], depths=(0.25, 0.75), runtime="openvino")


@pytest.mark.slow
@NAME
def test_inductor(name: str):
    laws.law_compile(METHODS[name], backend="inductor")


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda cls: cls.__name__)
def test_the_laws_catch(fault: type[Reducer]):
    law = faults.FAULTS[fault]
    with pytest.raises(Exception) as caught:
        {**LAWS, **TRACERS}[law](fault)
    if law not in TRACERS:
        assert caught.type is AssertionError, "the fault broke the law's own code"


@pytest.mark.parametrize("sound", faults.SOUND, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("law", {**LAWS, **TRACERS})
def test_what_faults_are_planted_in_is_sound(sound: type[Reducer], law: str):
    {**LAWS, **TRACERS}[law](sound)


# References


def compare(name: str, case: Case, **options: float) -> None:
    """Values, sizes, source map and gradients of a method and its reference."""
    method = METHODS[name](**options)
    tokens, signals = world(case)
    g = torch.Generator().manual_seed(case.seed + 1)
    x = torch.randn(*tokens.size.shape, 5, generator=g, requires_grad=True)
    index = torch.arange(case.patches).expand(case.batch, -1)
    tokens = tokens._replace(x=x, source=index)
    out = method(tokens, declared(method, signals), case.keep)
    x_ref, size_ref, source_ref = reference.reduce(name, tokens, signals, case.keep, **options)
    torch.testing.assert_close(out.x, x_ref, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.size, size_ref)
    assert torch.equal(out.source, source_ref)
    weight = torch.randn(out.x.shape, generator=g)
    (ours,) = torch.autograd.grad((out.x * weight).sum(), x)
    (theirs,) = torch.autograd.grad((x_ref * weight).sum(), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(reference.REFERENCE))
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_equals_its_reference(name: str, data: st.DataObject):
    patches = data.draw(st.integers(4, 24))
    least = max(2, patches - int(patches * METHODS[name].max_drop))
    case = Case(
        prefix=data.draw(st.sampled_from([1, 2, 5, 0])),
        patches=patches,
        keep=data.draw(st.integers(least, patches - 1)),
        depth=data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.9])),
        batch=data.draw(st.sampled_from([3, 1])),
        seed=data.draw(st.integers(0, 999)),
    )
    compare(name, case)


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.0}, {"threshold": 1e-3}])
def test_ppt_equals_its_reference_at_any_threshold(options: dict[str, float]):
    compare("ppt", ONE, **options)


def test_evit_normalised_equals_its_reference():
    compare("evit", ONE, normalise=True)


def test_every_method_of_the_literature_has_a_reference():
    ours = {name for name, cls in METHODS.items() if cls.__module__.startswith("foveate.methods.")}  # and no plug-in's
    assert {name for name in ours if METHODS[name].published} <= set(reference.REFERENCE)


# What each method says of itself


def test_names():
    assert set(METHODS) >= NAMED
    assert {n for n in NAMED if issubclass(METHODS[n], Merger)} == {"tome", "pitome"}
    assert {n for n in NAMED if not METHODS[n].per_image} == {"pomt_published"}


def test_unknown_name_lists_known():
    with pytest.raises(InputError, match=r"'tomee'.*tome.*topk"):
        METHODS["tomee"]


@pytest.mark.parametrize("abstract", [Reducer, Scorer, Merger])
def test_abstract_classes_cannot_be_instantiated(abstract: type[Reducer]):
    with pytest.raises(TypeError, match="abstract"):
        abstract()


@NAME
def test_needs_what_it_declares_and_no_more(name: str):
    method = METHODS[name]()
    tokens, signals = world(ONE)
    known: tuple[Signal, ...] = ("keys", "values", "class_row", "attention")
    assert method.needs <= set(known)
    for signal in method.needs:
        with pytest.raises((AssertionError, AttributeError, TypeError)):
            method(tokens, declared(method, signals)._replace(**{signal: None}), ONE.keep)


@NAME
def test_carries_neither_weights_nor_buffers(name: str):
    assert not METHODS[name]().state_dict()


@NAME
def test_without_source_map_and_rope_there_is_none(name: str):
    method = METHODS[name]()
    tokens, signals = world(ONE)
    bare = method(tokens, declared(method, signals), ONE.keep)
    full = method(roped(sourced(tokens)), declared(method, signals), ONE.keep)
    assert bare.source is None and bare.rope is None
    assert torch.equal(bare.x, full.x) and torch.equal(bare.size, full.size)


def duplicates(prefix: int, pairs: int) -> tuple[Tokens, Signals]:
    """Patches 2i and 2i+1 are alike in everything."""
    tokens, signals = world(Case(prefix, pairs, 2, depth=0.75))
    index = torch.cat([torch.arange(prefix), prefix + torch.arange(pairs).repeat_interleave(2)])
    x = torch.randn(3, prefix + pairs, 6, generator=torch.Generator().manual_seed(3))[:, index]
    source = torch.arange(2 * pairs).expand(3, -1)
    twice = [v[:, :, index] if isinstance(v, torch.Tensor) else v for v in signals]
    return Tokens(x, tokens.size[:, index], prefix, source), Signals(*twice)


@pytest.mark.parametrize("make", [METHODS["tome"], METHODS["tofu"], lambda: METHODS["ppt"](threshold=9.0)])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_merging_and_restoring_duplicates_changes_nothing(make: Make, prefix: int):
    tokens, signals = duplicates(prefix, 8)
    method = make()
    out = method(tokens, declared(method, signals), 8)
    torch.testing.assert_close(restore(out), tokens.x)


def test_a_token_of_size_two_counts_as_two():
    """Merging a pair that was merged before is merging all three patches at once."""
    keys = torch.eye(4)[[0, 0, 1, 2]]
    keys[1, 3] = 0.1
    x = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    size = torch.tensor([[2.0, 1.0, 1.0, 1.0]])
    out = METHODS["tome"]()(Tokens(x, size, 0), Signals(keys=keys[None, None]), 3)
    torch.testing.assert_close(out.x[0, 1], (2 * x[0, 0] + x[0, 1]) / 3)
    assert out.size.tolist() == [[1.0, 3.0, 1.0]]


def test_pomt_as_published_depends_on_batch_mates_and_ours_does_not():
    def kept(name: str, images: slice) -> list[int]:
        """Which patches image 0 keeps when it comes with `images`."""
        attention = torch.full((2, 1, 4, 4), 0.0)
        attention[0] = torch.tensor([0.30, 0.28, 0.22, 0.20])
        attention[1] = torch.tensor([1.0, 0.0, 0.0, 0.0])  # a mate with one patch that takes it all
        values = torch.zeros(2, 1, 4, 1)
        values[0, 0, :, 0] = torch.tensor([0.0, 0.0, 0.5, 0.3])
        tokens = Tokens(torch.eye(4).repeat(2, 1, 1)[images], torch.ones(2, 4)[images], 0)
        out = METHODS[name]()(tokens, Signals(values=values[images], attention=attention[images]), 3)
        return out.x[0, :2].argmax(-1).tolist()

    alone, together = slice(0, 1), slice(0, 2)
    assert kept("pomt_published", alone) == kept("pomt", alone) == kept("pomt", together) == [0, 1]
    assert kept("pomt_published", together) == [0, 2]


def test_evit_as_published_fuses_a_sum_and_on_request_a_mean():
    laws.law_mean(lambda: METHODS["evit"](normalise=True))
    with pytest.raises(AssertionError):
        laws.law_mean(METHODS["evit"])


def test_ppt_takes_both_ways_in_one_batch():
    tokens, signals = world(ONE)
    out = METHODS["ppt"]()(tokens, declared(METHODS["ppt"](), signals), ONE.keep)
    lost = tokens.size.sum(1) - out.size.sum(1)
    assert lost[0] == 0 and (lost[1:] > 0).all()  # scores of image 0 hardly differ: it is merged, the others pruned


def test_tofu_prunes_early_and_keeps_norms_late():
    for depth, norm in ((0.4, True), (0.6, False)):
        tokens, signals = world(Case(1, 16, 9, depth))
        method = METHODS["tofu"]()
        out = method(tokens, declared(method, signals), 9)
        assert torch.equal(out.size.sum(1), tokens.size.sum(1)) is not norm
        torch.testing.assert_close(out.x.norm(dim=-1), torch.ones(3, 10))  # every token in had the norm 1


def test_uniform_spaces_evenly():
    tokens, signals = world(Case(1, 196, 128, batch=1))
    out = METHODS["uniform"]()(tokens, declared(METHODS["uniform"](), signals), 128)
    gaps = out.x[0, 1:].argmax(-1).diff()
    assert set(gaps.tolist()) == {1, 2}


def test_random_draws_by_seed_evenly():
    tokens, signals = world(Case(1, 16, 8, batch=1))

    def kept(seed: int) -> tuple[int, ...]:
        method = METHODS["random"](seed=seed)
        return tuple(method(tokens, declared(method, signals), 8).x[0, 1:].argmax(-1).tolist())

    draws = [kept(seed) for seed in range(400)]
    assert draws[0] == kept(0) and len(set(draws)) > 390
    counts = torch.tensor([sum(i in d for d in draws) for i in range(1, 17)])
    assert ((counts - 200).abs() < 50).all()  # 5 standard deviations of a fair draw


@pytest.mark.parametrize("name", ["tome", "tofu", "ppt"])
def test_more_than_half_cannot_be_matched(name: str):
    tokens, signals = world(ONE)
    with pytest.raises(InputError, match="at most 8 of 16 patches; asked for 10"):
        METHODS[name]()(tokens, declared(METHODS[name](), signals), 6)

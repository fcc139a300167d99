"""Laws that hold for every model family and every method: nothing removed is nothing changed, nothing goes unseen."""

import copy
import io
import pickle
from math import gcd

import pytest
import torch
from support.families import CLOSE, IMAGE, VARIANTS, make, plan, trunk
from torch import nn

import foveate.models  # noqa: F401  puts ours into timm's registry
from foveate.adapters import adapt, describe, restore
from foveate.methods import METHODS, Reducer
from foveate.methods._base import select
from foveate.plans import Step
from foveate.tokens import Tokens


def make_for(variant: str, method: str) -> nn.Module:
    model = make(variant)
    if "class_row" in METHODS[method].needs and not describe(model).has_class_token:
        pytest.skip(f"{method} scores by the class token, which {variant} has not")
    return model


def pairs(count: int) -> list[object]:
    """Methods x variants: `count` variants a method by turns through both families, the others `slow`."""
    names, out = list(VARIANTS), []
    stride = next(s for s in range(7, 99) if gcd(s, len(names)) == 1)
    for i, method in enumerate(sorted(METHODS)):
        chosen = {names[(i * count + j) * stride % len(names)] for j in range(count)}
        for variant in names:
            marks = () if variant in chosen else (pytest.mark.slow,)
            out.append(pytest.param(method, variant, marks=marks, id=f"{method}-{variant}"))
    return out


# Nothing removed is nothing changed.
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_full_schedule_changes_no_bit(variant):
    model = make(variant)
    want = model(IMAGE)
    full = describe(model).tokens
    assert torch.equal(adapt(model)(IMAGE), want)
    assert torch.equal(adapt(model, [Step(block=1, method="tome", tokens=full)])(IMAGE), want)
    assert torch.equal(model(IMAGE), want)
    assert want.std() > 0.05  # a constant would prove nothing


@pytest.mark.parametrize("variant", ["dinov2_reg4", "dinov3"])
def test_parity_holds_in_training_and_in_bfloat16(variant):
    model = make(variant).bfloat16()
    image = IMAGE.bfloat16()
    assert torch.equal(adapt(model)(image), model(image))
    reduced = adapt(model.train(), plan(model, "tome"))
    assert reduced.training
    assert reduced(image).dtype == torch.bfloat16


@pytest.mark.parametrize("variant", VARIANTS)
def test_facts_are_what_the_model_does(variant):
    model = make(variant)
    facts, seen = describe(model), []
    trunk(model).blocks[0].register_forward_hook(lambda module, args, out: seen.append(out.shape))
    shapes = {"classes": (3, facts.classes), "embedding": (3, facts.last_width), "masks": (3, facts.classes, 64, 64)}
    assert model(IMAGE).shape == shapes[facts.outputs]
    assert seen[0] == (3, facts.tokens, facts.width)
    assert facts.patches == facts.grid[0] * facts.grid[1]
    assert facts.depth == 3
    assert facts.image == (3, 64, 64)
    assert facts.prefix == trunk(model).num_prefix_tokens


# Every method in every family.
@pytest.mark.parametrize(("method", "variant"), pairs(3))
@torch.no_grad()
def test_counts_batches_grids_and_traces(method, variant):
    model = make_for(variant, method)
    reduced, p = adapt(model, plan(model, method)), describe(model).prefix
    assert reduced.dry_run() == reduced.schedule.after == (p + 11, p + 6, p + 6)

    seen = []
    hooks = [b.mlp.register_forward_hook(lambda m, args, out: seen.append(out.shape[1])) for b in reduced.trunk.blocks]
    out = reduced(IMAGE)
    assert tuple(seen) == reduced.schedule.after  # what the blocks really saw, not only in the dry run
    for hook in hooks:
        hook.remove()

    if METHODS[method].per_image:
        alone = torch.cat([reduced(IMAGE[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(alone, out, **CLOSE)
        torch.testing.assert_close(reduced(IMAGE.flip(0)), out.flip(0), **CLOSE)

    maps, grid = reduced.trace(IMAGE), reduced.features(IMAGE)
    assert sorted(maps) == [0, 1]
    assert grid.shape == (3, p + 16, 32)
    for block, kept in ((0, 11), (1, 6)):
        assert maps[block].shape == (3, 16)
        assert all(set(row.tolist()) - {-1} == set(range(kept)) for row in maps[block])
    for row, features in zip(maps[1], grid[:, p:], strict=True):
        assert not features[row < 0].any()  # dropped: zeros
        for token in range(6):
            held = features[row == token]
            assert (held == held[0]).all()  # merged: the same value everywhere


@pytest.mark.parametrize(("method", "variant"), pairs(1))
def test_copies_saves_and_trains(method, variant):
    model = make_for(variant, method)
    before = {k: v.data_ptr() for k, v in model.state_dict().items()}
    reduced = adapt(model, plan(model, method))
    want = reduced(IMAGE)

    # The caller's model is as it was, and its memory is shared.
    classes = ("VisionTransformer", "VisionTransformerDistilled", "Eva", "ViTTM", "IRET", "Segmenter", "DenseViT")
    assert type(model).__name__ in classes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert {k: v.data_ptr() for k, v in model.state_dict().items()} == before
    assert {k.removeprefix("host."): v.data_ptr() for k, v in reduced.state_dict().items()} == before

    other = adapt(make_for(variant, method), plan(model, method))
    for p in other.parameters():
        nn.init.zeros_(p)
    other.load_state_dict(reduced.state_dict())
    torch.testing.assert_close(other(IMAGE), want)

    torch.testing.assert_close(copy.deepcopy(reduced)(IMAGE), want)
    torch.testing.assert_close(pickle.loads(pickle.dumps(reduced))(IMAGE), want)
    torch.save(reduced, buffer := io.BytesIO())
    buffer.seek(0)
    torch.testing.assert_close(torch.load(buffer, weights_only=False)(IMAGE), want)

    answers = reduced.train()(IMAGE)  # ViTTM's are two while it trains
    torch.stack(answers).sum().backward() if isinstance(answers, tuple) else answers.sum().backward()
    assert not [name for name, p in reduced.named_parameters() if p.grad is None]
    assert [name for name, p in model.named_parameters() if p.grad is not None]  # the same parameters


@pytest.mark.parametrize(("method", "variant"), pairs(1))
def test_exports(method, variant):
    model = make_for(variant, method)
    reduced = adapt(model, plan(model, method))
    want = reduced(IMAGE)
    exported = torch.export.export(reduced, (IMAGE,)).module()
    torch.testing.assert_close(exported(IMAGE), want, **CLOSE)
    assert torch.equal(reduced(IMAGE), want)  # exporting does not disturb the eager model


@pytest.mark.parametrize(
    ("method", "variant"),
    [
        pytest.param("tome", "dinov2_reg4"),
        pytest.param("topk", "dinov3"),
        pytest.param("pitome", "segmenter_vittm", marks=pytest.mark.slow),
        pytest.param("tome", "dense_dinov2", marks=pytest.mark.slow),
        *(
            pytest.param(m, v, marks=pytest.mark.slow)
            for m in sorted(METHODS)
            for v in ("dinov2_reg4", "dinov3", "siglip")
        ),
    ],
)
def test_compiles_without_graph_breaks(method, variant):
    model = make_for(variant, method)
    reduced = adapt(model, plan(model, method))
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(reduced, fullgraph=True, backend="aot_eager")(IMAGE)
        torch.testing.assert_close(compiled, reduced(IMAGE), **CLOSE)


class OneTooMany(Reducer):
    def forward(self, tokens, signals, keep):
        return select(tokens, torch.arange(keep + 1).expand(len(tokens.x), -1))


class DoesNothing(Reducer):
    def forward(self, tokens, signals, keep):
        return tokens


class ForgetsSizes(Reducer):
    def forward(self, tokens, signals, keep):
        return tokens._replace(x=tokens.x[:, : tokens.prefix + keep])


@pytest.mark.parametrize("variant", ["vit", "dinov3"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [(OneTooMany, "the plan asks for"), (DoesNothing, "the plan asks for"), (ForgetsSizes, "the sizes of")],
)
def test_a_method_that_misses_its_count_does_not_get_past_adapt(monkeypatch, variant, fault, message):
    monkeypatch.setitem(METHODS._items, "faulty", fault)
    model = make(variant)
    with pytest.raises(RuntimeError, match=message):
        adapt(model, plan(model, "faulty", 10))


class HoldsAPlainTensor(Reducer):
    """Neither parameter nor buffer, so it does not follow the model to another device."""

    def forward(self, tokens, signals, keep):
        scores = tokens.x[:, tokens.prefix :].mean(-1) * torch.ones(tokens.patches)
        return select(tokens, scores.argsort(1)[:, :keep])


def test_a_method_whose_tensors_stay_where_they_are_is_walked_too(monkeypatch):
    monkeypatch.setitem(METHODS._items, "plain", HoldsAPlainTensor)
    model = make("vit")
    reduced = adapt(model, plan(model, "plain", 10))
    assert reduced.dry_run() == reduced.schedule.after and reduced(IMAGE).shape == (3, 7)


def test_restore_needs_a_source_map():
    with pytest.raises(ValueError, match="no source map"):
        restore(Tokens(torch.zeros(1, 3, 2), torch.ones(1, 3), 1))


def test_a_host_with_rotary_embeddings_needs_them():
    reduced = adapt(make("dinov3"))
    with pytest.raises(ValueError, match=r"tokens\.rope is needed"):
        reduced.block(0, reduced.embed(IMAGE)._replace(rope=None))

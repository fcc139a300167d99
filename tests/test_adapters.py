"""Laws that hold for every model family and every method: nothing removed is nothing changed, nothing goes unseen.

One file, though a long one: the last part plants faults that the laws before it have to see.
"""

import copy
import io
import pickle
from math import gcd

import pytest
import timm
import torch
from timm.models.eva import Eva
from torch import Tensor, nn

import foveate.models  # noqa: F401  puts ours into timm's registry
from foveate.adapters import adapt, describe, restore
from foveate.adapters.timm_eva import TimmEva
from foveate.adapters.timm_vit import TimmViT
from foveate.methods import METHODS, Reducer
from foveate.methods._base import select
from foveate.plans import Step
from foveate.tokens import Signals, Tokens

SMALL = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 7}
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    # timm's VisionTransformer
    "vit": ("vit_tiny_patch16_224", {}),
    "augreg": ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", {}),
    "vit_avg": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "vit_avg_no_class": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False}),
    "qk_norm": ("vit_tiny_patch16_224", {"qk_norm": True, "init_values": 0.1}),
    "scale_norm": ("vit_tiny_patch16_224", {"scale_attn_norm": True, "scale_mlp_norm": True}),
    "deit": ("deit_tiny_patch16_224", {}),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", {}),
    "deit3": ("deit3_small_patch16_224", {}),
    "clip": ("vit_base_patch32_clip_quickgelu_224", {}),
    "siglip": ("vit_base_patch16_siglip_224", {}),
    "siglip_gap": ("vit_base_patch16_siglip_gap_224", {}),
    "dinov2": ("vit_small_patch14_dinov2", {}),
    "dinov2_swiglu": ("vit_giant_patch14_dinov2", {}),
    "dinov2_reg4": ("vit_small_patch14_reg4_dinov2", {}),
    "reg4_gap": ("vit_base_patch16_reg4_gap_256", {}),
    # timm's Eva
    "eva": ("eva_giant_patch14_224", {"mlp_ratio": 2}),
    "eva02": ("eva02_tiny_patch14_224", {}),
    "eva02_split_qkv": ("eva02_base_patch14_224", {}),
    "eva02_clip": ("eva02_base_patch16_clip_224", {}),
    "dinov3": ("vit_small_patch16_dinov3", {"dynamic_img_size": False}),
    "dinov3_swiglu": ("vit_small_plus_patch16_dinov3_qkvb", {"dynamic_img_size": False}),
    "rope": ("vit_small_patch16_rope_224", {}),
    "rope_mixed": ("vit_small_patch16_rope_mixed_224", {}),
    "rope_reg4_gap": ("vit_betwixt_patch16_rope_reg4_gap_256", {}),
    "pe_core": ("vit_pe_core_tiny_patch16_384", {}),
    # ours
    "vittm": ("vittm_tiny_patch32_mem16_224", {"memory_patch_size": 8}),
    "vittm_process": ("vittm_tiny_patch28_224", {"output": "process", "norm": "pre"}),
}
IMAGE = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def randomised(model: nn.Module) -> nn.Module:
    """Every parameter of note: norms, LayerScale, positions and biases too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


def make(variant: str) -> nn.Module:
    name, options = VARIANTS[variant]
    return randomised(timm.create_model(name, **{**SMALL, **options})).eval()


def plan(model: nn.Module, method: str, *kept: int) -> list[Step]:
    """`kept` patches after blocks 0, 1, ..."""
    prefix = describe(model).prefix
    return [Step(block=b, method=method, tokens=prefix + k) for b, k in enumerate(kept or (11, 6))]


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
    model.blocks[0].register_forward_hook(lambda module, args, out: seen.append(out.shape))
    assert model(IMAGE).shape == (3, facts.classes)
    assert seen[0] == (3, facts.tokens, facts.width)
    assert facts.patches == facts.grid[0] * facts.grid[1]
    assert facts.depth == 3
    assert facts.image == (3, 64, 64)
    assert facts.prefix == model.num_prefix_tokens


# Every method in every family.
@pytest.mark.parametrize(("method", "variant"), pairs(3))
@torch.no_grad()
def test_counts_batches_grids_and_traces(method, variant):
    model = make_for(variant, method)
    reduced, p = adapt(model, plan(model, method)), describe(model).prefix
    assert reduced.dry_run() == reduced.schedule.after == (p + 11, p + 6, p + 6)

    seen = []
    hooks = [b.mlp.register_forward_hook(lambda m, args, out: seen.append(out.shape[1])) for b in reduced.host.blocks]
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
    assert type(model).__name__ in ("VisionTransformer", "VisionTransformerDistilled", "Eva", "ViTTM")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert {k: v.data_ptr() for k, v in model.state_dict().items()} == before
    assert {k.removeprefix("host."): v.data_ptr() for k, v in reduced.state_dict().items()} == before

    other = adapt(make_for(variant, method), plan(model, method))
    for p in other.parameters():
        nn.init.zeros_(p)
    other.load_state_dict(reduced.state_dict())
    torch.testing.assert_close(other(IMAGE), want)

    answers = reduced.train()(IMAGE)  # ViTTM's are two while it trains
    torch.stack(answers).sum().backward() if isinstance(answers, tuple) else answers.sum().backward()
    assert not [name for name, p in reduced.named_parameters() if p.grad is None]
    assert [name for name, p in model.named_parameters() if p.grad is not None]  # the same parameters

    torch.testing.assert_close(copy.deepcopy(reduced).eval()(IMAGE), want)
    torch.testing.assert_close(pickle.loads(pickle.dumps(reduced)).eval()(IMAGE), want)
    torch.save(reduced, buffer := io.BytesIO())
    buffer.seek(0)
    torch.testing.assert_close(torch.load(buffer, weights_only=False).eval()(IMAGE), want)


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


# What methods are told is what attention did.
class Probe(Reducer):
    """Keeps the first patches and remembers what it was given."""

    needs = frozenset({"keys", "values", "class_row", "attention"})
    proportional = True

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        self.seen = signals
        return select(tokens, torch.arange(keep).expand(len(tokens.x), -1))


class NoClass(Probe):
    needs = frozenset({"keys", "values", "attention"})


@pytest.fixture
def probes(monkeypatch):
    monkeypatch.setitem(METHODS._items, "probe", Probe)
    monkeypatch.setitem(METHODS._items, "no_class", NoClass)


def sized(reduced, batch: int = 2) -> Tokens:
    """Tokens of block 1 after a reduction: uneven sizes, positions of their own for every image."""
    generator, p = torch.Generator().manual_seed(3), reduced.facts.prefix
    tokens = reduced.embed(torch.randn(batch, 3, 64, 64, generator=generator))
    order = torch.rand(batch, 16, generator=generator).argsort(1)[:, :9]
    size = torch.cat([torch.ones(batch, p), torch.randint(1, 5, (batch, 9), generator=generator).float()], dim=1)
    return select(tokens, order)._replace(size=size, memory=tokens.memory)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_signals_are_those_of_the_attention_that_ran(variant, probes):
    model = make(variant)
    method = "probe" if describe(model).has_class_token else "no_class"
    reduced = adapt(model, plan(model, method, 12, 6))
    tokens, attn, normed = sized(reduced), model.blocks[1].attn, []
    reduced.host.blocks[1].norm1.register_forward_hook(lambda module, args, out: normed.append(out))
    bias = reduced.bias(1, tokens)
    assert bias is not None
    reduced.reduce(1, reduced.attend(1, tokens, bias), bias)
    seen, y = reduced.reducers["1"].seen, normed[0]

    out = (seen.attention @ seen.values).transpose(1, 2).flatten(2)
    out = attn.norm(out)
    if attn.gate is not None:
        out = out * attn.gate(y).sigmoid()
    rope = {} if not isinstance(model, Eva) else {"rope": reduced._rope(1, tokens)}
    torch.testing.assert_close(attn.proj(out), attn(y, attn_mask=bias, **rope), **CLOSE)
    torch.testing.assert_close(seen.attention.sum(-1), torch.ones(seen.attention.shape[:-1]))
    if seen.class_row is not None:
        torch.testing.assert_close(seen.class_row, seen.attention[:, :, 0], **CLOSE)
    if attn.k_norm is not None and getattr(attn, "k_proj", None) is not None:
        keys = attn.k_norm(attn.k_proj(y).unflatten(-1, (2, -1)).transpose(1, 2))
        torch.testing.assert_close(seen.keys, keys)  # before rotation
    assert seen.depth == pytest.approx(1 / 3)


def test_signals_that_no_method_asks_for_are_not_computed(probes):
    model = make("vit")
    reduced = adapt(model, [Step(block=0, method="tome", tokens=10)])
    reduced.reducers["0"].register_forward_pre_hook(lambda m, args: got.append(args[1]))
    got: list[Signals] = []
    reduced(IMAGE)
    assert got[0].keys is not None
    assert got[0].values is got[0].class_row is got[0].attention is None
    assert not reduced.host.blocks[1].attn.q_norm._forward_hooks  # only the reducing block is tapped


# A token of size two is two copies of it.
def doubled(tokens: Tokens) -> Tokens:
    """The last token twice, and all sizes one."""
    rope = None if tokens.rope is None else torch.cat([tokens.rope, tokens.rope[:, -1:]], dim=1)
    x = torch.cat([tokens.x, tokens.x[:, -1:]], dim=1)
    return tokens._replace(x=x, size=torch.ones(x.shape[:2]), rope=rope)


def one_of_size_two(tokens: Tokens) -> Tokens:
    size = torch.ones_like(tokens.size)
    size[:, -1] = 2
    return tokens._replace(size=size)


def block_law(model: nn.Module) -> None:
    reduced = adapt(model, plan(model, "tome", 12))
    tokens = sized(reduced)
    merged = reduced.block(1, one_of_size_two(tokens))
    twice = reduced.block(1, doubled(tokens))
    torch.testing.assert_close(merged.x, twice.x[:, :-1], **CLOSE)
    if merged.memory is not None:
        torch.testing.assert_close(merged.memory, twice.memory, **CLOSE)


def pooling_law(model: nn.Module) -> None:
    reduced = adapt(model, plan(model, "tome", 12))
    tokens = sized(reduced)
    dense = adapt(model)
    torch.testing.assert_close(reduced.finish(one_of_size_two(tokens)), dense.finish(doubled(tokens)), **CLOSE)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_token_of_size_two_equals_two_copies_of_it(variant):
    model = make(variant)
    block_law(model)
    pooling_law(model)


@torch.no_grad()
def test_pooling_counts_merged_patches_even_after_the_last_block():
    """A merger that leaves attention alone, in the last block, still pools over patches and not over tokens."""
    model = make("vit_avg_no_class")
    reduced = adapt(model, [Step(block=2, method="tome", tokens=9, options={"proportional": False})])
    assert reduced.pools_by_size
    assert reduced.bias(2, reduced.embed(IMAGE)) is None
    assert not adapt(model, [Step(block=2, method="uniform", tokens=9)]).pools_by_size


def test_prefix_tokens_count_once_in_pooling():
    model = randomised(timm.create_model("vit_tiny_patch16_224", **SMALL, global_pool="avg", pool_include_prefix=True))
    with torch.no_grad():
        pooling_law(model.eval())


def test_the_methods_see_every_image_of_a_batch_with_its_own_positions():
    """Where the best patches of two images differ, so do their rotary embeddings after a cut."""
    model = make("dinov3")
    reduced = adapt(model, plan(model, "topk", 8))
    tokens: Tensor | None = reduced.block(0, reduced.embed(IMAGE)).rope
    assert tokens is not None
    assert not torch.equal(tokens[0], tokens[1])


# Guards that can fail: each law sees the fault planted for it.
def no_layer_scale(self, block, tokens, bias):
    b = self.host.blocks[block]
    return tokens._replace(x=tokens.x + b.attn(b.norm1(tokens.x), attn_mask=bias))


def unrotated(self, block, tokens):
    return None


@pytest.mark.parametrize(
    ("variant", "owner", "name", "fault", "law"),
    [
        ("deit3", TimmViT, "attend", no_layer_scale, "parity"),
        ("dinov3", TimmEva, "_rope", unrotated, "parity"),
        ("dinov2", TimmViT, "bias", lambda self, block, tokens: None, "block"),
        ("eva02", TimmEva, "bias", lambda self, block, tokens: None, "block"),
        ("siglip", TimmViT, "finish", lambda self, tokens: self.head(tokens, weighted=False), "pooling"),
        ("vit_avg", TimmViT, "finish", lambda self, tokens: self.head(tokens, weighted=False), "pooling"),
        ("pe_core", TimmEva, "finish", lambda self, tokens: self.head(tokens, weighted=False), "pooling"),
    ],
)
@torch.no_grad()
def test_the_laws_see_planted_faults(monkeypatch, variant, owner, name, fault, law):
    monkeypatch.setattr(owner, name, fault)
    model = make(variant)
    if law == "parity":
        assert not torch.allclose(adapt(model)(IMAGE), model(IMAGE), **CLOSE)
        return
    with pytest.raises(AssertionError):
        (block_law if law == "block" else pooling_law)(model)


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


def test_restore_needs_a_source_map():
    with pytest.raises(ValueError, match="no source map"):
        restore(Tokens(torch.zeros(1, 3, 2), torch.ones(1, 3), 1))


def test_a_host_with_rotary_embeddings_needs_them():
    reduced = adapt(make("dinov3"))
    with pytest.raises(ValueError, match=r"tokens\.rope is needed"):
        reduced.block(0, reduced.embed(IMAGE)._replace(rope=None))

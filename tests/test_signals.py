"""What an adapter tells methods is what attention did, and a token counts as often as the patches it stands for."""

from typing import Any

import pytest
import timm
import torch
from support.families import CLOSE, IMAGE, SMALL, VARIANTS, block_law, make, plan, pooling_law, randomised, sized, trunk
from timm.models.eva import Eva
from torch import Tensor

from foveate.adapters import adapt, describe
from foveate.adapters.timm_eva import TimmEva
from foveate.adapters.timm_vit import TimmViT
from foveate.methods import METHODS, Reducer
from foveate.methods._base import select
from foveate.plans import Step
from foveate.tokens import Signals, Tokens


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


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_signals_are_those_of_the_attention_that_ran(variant, probes):
    model = make(variant)
    method = "probe" if describe(model).has_class_token else "no_class"
    reduced = adapt(model, plan(model, method, 12, 6))
    tokens, attn, normed = sized(reduced), trunk(model).blocks[1].attn, []
    reduced.trunk.blocks[1].norm1.register_forward_hook(lambda module, args, out: normed.append(out))
    bias = reduced.bias(1, tokens)
    assert bias is not None
    reduced.reduce(1, reduced.attend(1, tokens, bias), bias)
    seen, y = reduced.reducers["1"].seen, normed[0]

    out = (seen.attention @ seen.values).transpose(1, 2).flatten(2)
    out = attn.norm(out)
    if attn.gate is not None:
        out = out * attn.gate(y).sigmoid()
    host: Any = getattr(reduced, "inner", reduced)  # of masks, the backbone's own adapter
    rope = {"rope": host._rope(1, tokens)} if isinstance(trunk(model), Eva) else {}
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
    assert not reduced.trunk.blocks[1].attn.q_norm._forward_hooks  # only the reducing block is tapped


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_token_of_size_two_equals_two_copies_of_it(variant):
    model = make(variant)
    block_law(model)
    if not describe(model).decoder:  # masks are drawn on the grid and pool nothing
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

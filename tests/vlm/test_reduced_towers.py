"""An encoder that merges tokens within: parity where it merges nothing, and what a budget then takes."""

from typing import Any

import pytest
import torch
from support import vlms

import foveate.vlm
from foveate.budgets import Budget
from foveate.budgets.registered import BUDGETS
from foveate.errors import InputError
from foveate.plans import Step
from foveate.vlm.applying import reduce
from foveate.vlm.towers import once

pytest.importorskip("transformers")
NAME = pytest.mark.parametrize("name", ["llava", "llava_next", "llava_onevision"])


def batch(name: str, model: Any) -> dict[str, Any]:
    seen = vlms.pictures(name, model)
    return vlms.prompts(seen, vlms.counts(name, model, seen))


@NAME
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_without_steps_it_is_the_hosts(name: str, share: float):
    """The converted tower scores and encodes as the host's: the same tokens stay, the same logits come."""
    model = vlms.model(name)
    inputs = batch(name, model)
    family, again = foveate.vlm.family_of(model), foveate.vlm.family_of(model)
    again.reduce_encoder([])
    budget, method = Budget(ratio=share), BUDGETS["hired-diverse"]()
    (plain, twin) = (reduce(f, method, budget, inputs, always=True) for f in (family, again))
    for mine, theirs in zip(twin.kept, plain.kept, strict=True):
        assert mine.rows.equal(theirs.rows)
    with torch.no_grad():
        wanted, got = (model(**reduced.inputs).logits for reduced in (plain, twin))
    real = plain.inputs["attention_mask"].bool()
    assert torch.allclose(got[real], wanted[real], atol=5e-6)


@NAME
def test_signals_are_the_hosts(name: str):
    model = vlms.model(name)
    inputs = batch(name, model)
    family, again = foveate.vlm.family_of(model), foveate.vlm.family_of(model)
    again.reduce_encoder([])
    needs = frozenset({"early", "late", "keys", "features"})
    tilings = family.tilings(inputs)
    for one, two in zip(family.looks(inputs, tilings, needs), again.looks(inputs, tilings, needs), strict=True):
        assert torch.allclose(one.sight.late, two.sight.late, atol=1e-5)
        assert torch.allclose(one.sight.keys, two.sight.keys, atol=1e-5)
        assert torch.allclose(one.given, two.given, atol=1e-5)
        if one.sight.early is not None:
            assert torch.allclose(one.sight.early, two.sight.early, atol=1e-5)


@NAME
def test_merged_tokens_are_shown_once(name: str):
    model = vlms.model(name)
    inputs = batch(name, model)
    foveate.vlm.apply(model, 0.3, encoder="tome:3")
    try:
        family = foveate.vlm.applied_to(model).family
        merged = [step.tokens for step in family.tower.steps]
        assert merged and merged == sorted(merged, reverse=True)
        (look, *_) = family.looks(inputs, family.tilings(inputs), frozenset({"early", "late"}))
        tiles = look.given.unflatten(0, (-1, family.grid**2))
        distinct = len(torch.unique(tiles[0].round(decimals=4), dim=0))
        assert distinct == merged[-1] - family.tower.reduced.facts.prefix < family.grid**2
        if look.weights is None:
            first = look.sight.late[[n for n, part in enumerate(look.sight.tiling.part) if part == 0]]
            assert int((first > 0).sum()) == distinct
        out = model.generate(**inputs, max_new_tokens=2, do_sample=False, pad_token_id=0)
        assert out.shape[1] > inputs["input_ids"].shape[1]
        for kept, tiling in zip(foveate.vlm.applied_to(model).kept, family.tilings(inputs), strict=True):
            assert len(kept.rows) == BUDGETS["hired"]().count(tiling, 0.3)
    finally:
        foveate.vlm.remove(model)
    with torch.no_grad():  # and the host is as it was
        assert model(**inputs).logits.isfinite().all()


def test_all_tokens_with_a_reduced_encoder():
    model = vlms.model("llava")
    inputs = batch("llava", model)
    with torch.no_grad():
        plain = model(**inputs).logits
    foveate.vlm.apply(model, 1.0, encoder="tome:3")
    with torch.no_grad():
        merged = model(**inputs).logits
    assert merged.shape == plain.shape and not torch.allclose(merged, plain, atol=1e-4)


def test_once():
    source = torch.tensor([[0, 1, 0, 2, 1]])
    assert once(torch.tensor([[5.0, 6.0, 7.0]]), source).tolist() == [[5.0, 6.0, 0.0, 7.0, 0.0]]


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        ("tome", "tome:8"),
        ("tome:0", "tome:8"),
        ("evit:2", "those that merge"),
        ("tomme:2", "known"),
        ([Step(block=2, method="tome", tokens=10)], "features come from block 2"),
    ],
)
def test_refused(encoder: Any, told: str):
    with pytest.raises(InputError, match=told):
        foveate.vlm.apply(vlms.model("llava"), 0.3, encoder=encoder)


def test_hosts_that_cannot():
    for name in ("qwen3_vl", "internvl"):
        with pytest.raises(InputError, match="cannot be reduced"):
            foveate.vlm.apply(vlms.model(name), 0.3, encoder="tome:3")


@pytest.mark.parametrize("encoder", ["tome:3", "evit:2"])
def test_the_hosts_precision_stays(encoder: str):
    """Converted in float32, taken or refused: the host's own tower is in bfloat16 as before."""
    model = vlms.model("llava").to(torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        foveate.vlm.apply(model, 0.3, encoder=encoder)
    except InputError:
        assert encoder == "evit:2"
    for name, value in model.state_dict().items():
        assert value.dtype == torch.bfloat16 and value.equal(before[name]), name

"""A token budget on tiny random models of all six families: parity where all stays, exact counts where not."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from support import vlms

import foveate.vlm
from foveate.budgets import Budget
from foveate.budgets.registered import BUDGETS
from foveate.errors import InputError
from foveate.vlm.applying import reduce
from foveate.vlm.scoring import sampled

pytest.importorskip("transformers")
NAME = pytest.mark.parametrize("name", vlms.NAMES)
ALL = Budget(ratio=1.0)


@pytest.fixture(scope="module", params=vlms.NAMES)
def host(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, vlms.model(request.param)


def batch(name: str, model: Any, **options: Any) -> dict[str, Any]:
    seen = vlms.pictures(name, model)
    if name == "llava_onevision" and options.get("together"):
        seen["batch_num_images"] = torch.tensor([len(vlms.SIZES)])
    return vlms.prompts(seen, vlms.counts(name, model, seen), **options)


def plain(name: str, model: Any, inputs: dict[str, Any]) -> Any:
    with torch.no_grad():
        return model(**foveate.vlm.family_of(model).known(inputs)).logits


def forced(model: Any, inputs: dict[str, Any], budget: Budget = ALL, method: str = "hired", **options: Any) -> Any:
    """Logits by way of the reduction, also where everything stays."""
    family = foveate.vlm.family_of(model)
    reduced = reduce(family, BUDGETS[method](**options), budget, inputs, always=True)
    with torch.no_grad(), family.bridged():
        return model(**reduced.inputs).logits, reduced


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("left", [True, False])
def test_keep_all_has_the_plain_models_logits(host, together: bool, left: bool):
    name, model = host
    inputs = batch(name, model, together=together, left=left)
    wanted = plain(name, model, inputs)
    for method in ("hired", "visionzip", "divprune"):
        got, reduced = forced(model, inputs, method=method)
        assert reduced.inputs["input_ids"].equal(inputs["input_ids"])
        real = inputs["attention_mask"].bool()
        assert torch.allclose(got[real], wanted[real], atol=2e-6), (got - wanted)[real].abs().max()


@pytest.mark.parametrize("beams", [1, 3])
def test_keep_all_generates_with_the_same_scores(host, beams: int):
    name, model = host
    inputs = batch(name, model)
    options = {
        "max_new_tokens": 4,
        "do_sample": False,
        "num_beams": beams,
        "return_dict_in_generate": True,
        "output_scores": True,
        "pad_token_id": 0,
    }
    family = foveate.vlm.family_of(model)
    wanted = model.generate(**family.known(inputs), **options)
    reduced = reduce(family, BUDGETS["hired"](), ALL, inputs, always=True)
    with family.bridged():
        got = model.generate(**reduced.inputs, **options)
    assert got.sequences.equal(wanted.sequences)
    for mine, theirs in zip(got.scores, wanted.scores, strict=True):
        assert torch.allclose(mine, theirs, atol=5e-6)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("together", [False, True])
def test_pruned_generation(host, beams: int, together: bool):
    name, model = host
    inputs = batch(name, model, together=together)
    wanted = model.generate  # to be there again afterwards
    foveate.vlm.apply(model, 0.3)
    try:
        out = model.generate(**inputs, max_new_tokens=3, do_sample=False, num_beams=beams, pad_token_id=0)
        kept = foveate.vlm.applied_to(model).kept
    finally:
        foveate.vlm.remove(model)
    assert model.generate == wanted and "forward" not in vars(model)
    length = inputs["input_ids"].shape[1]
    assert out[:, :length].equal(inputs["input_ids"]) and length < out.shape[1] <= length + 3
    family = foveate.vlm.family_of(model)
    for stays, tiling in zip(kept, family.tilings(inputs), strict=True):
        assert len(stays.rows) == BUDGETS["hired"]().count(tiling, 0.3)


def test_a_batch_is_its_prompts_alone(host):
    """Unequal pictures in one batch: each prompt's last logits are those that it has by itself."""
    name, model = host
    inputs = batch(name, model, left=False)
    together, reduced = forced(model, inputs, Budget(ratio=0.4))
    last = reduced.inputs["attention_mask"].sum(1) - 1
    for n, size in enumerate(vlms.SIZES):
        seen = one_picture(name, model, inputs, n)
        row = inputs["input_ids"][n][inputs["attention_mask"][n].bool()][None]
        single = {**seen, "input_ids": row, "attention_mask": torch.ones_like(row)}
        if "mm_token_type_ids" in inputs:
            single["mm_token_type_ids"] = (row == vlms.IMAGE).int()
        alone, _ = forced(model, single, Budget(ratio=0.4))
        assert torch.allclose(alone[0, -1], together[n, last[n]], atol=5e-6), size


def one_picture(name: str, model: Any, inputs: dict[str, Any], n: int) -> dict[str, Any]:
    family = foveate.vlm.family_of(model)
    if name == "internvl":
        tiles = [t.tokens // 4 for t in family.tilings(inputs)]
        first = sum(tiles[:n])
        return {
            "pixel_values": inputs["pixel_values"][first : first + tiles[n]],
            "image_sizes": inputs["image_sizes"][n : n + 1],
        }
    if "image_grid_thw" in inputs:
        grids = inputs["image_grid_thw"]
        first = int(grids[:n].prod(1).sum())
        return {
            "pixel_values": inputs["pixel_values"][first : first + int(grids[n].prod())],
            "image_grid_thw": grids[n : n + 1],
        }
    return {key: inputs[key][n : n + 1] for key in ("pixel_values", "image_sizes") if key in inputs}


def test_kept_features_are_rows_of_the_hosts(host):
    """What stays is bit for bit (but for the product's order) what the host would have given for that place."""
    name, model = host
    inputs = batch(name, model)
    with torch.no_grad():
        given = foveate.vlm.family_of(model).known({k: v for k, v in inputs.items() if k in SEEN})
        full = model.model.get_image_features(**given, return_dict=True)
    rows = full.pooler_output
    if name == "internvl":
        rows = rows.flatten(0, 1).split([t.tokens for t in foveate.vlm.family_of(model).tilings(inputs)])
    _, reduced = forced(model, inputs, Budget(ratio=0.35))
    image = reduced.inputs["mm_encoder_outputs"]["image"]
    for mine, theirs, kept in zip(_list(image.pooler_output), rows, reduced.kept, strict=False):
        assert torch.allclose(mine[: len(kept.rows)], theirs[kept.rows], atol=1e-6)
    if name == "qwen3_vl":
        for mine, theirs in zip(image.deepstack_features, full.deepstack_features, strict=True):
            for own, all_of_it, kept in zip(mine, theirs, reduced.kept, strict=True):
                assert torch.allclose(own, all_of_it[kept.rows], atol=1e-6)


SEEN = ("pixel_values", "image_sizes", "image_grid_thw")


def _list(features: Any) -> Any:
    return features[0][None] if isinstance(features, torch.Tensor) else features


@pytest.mark.parametrize("method", sorted(BUDGETS))
def test_every_method_on_every_family(host, method: str):
    name, model = host
    inputs = batch(name, model)
    logits, reduced = forced(model, inputs, Budget(ratio=0.3), method)
    assert logits.isfinite().all() and logits.shape[:2] == reduced.inputs["input_ids"].shape


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_positions(host, positions: str):
    name, model = host
    inputs = batch(name, model)
    _, reduced = forced(model, inputs, Budget(ratio=0.3), positions=positions)
    ids = reduced.inputs.get("position_ids")
    if name.startswith("qwen"):  # always the full picture's
        full, _ = model.model.get_rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )
        for prompt, place in enumerate(reduced.place):
            assert ids[1:, prompt, place >= 0].equal(full[:, prompt, place[place >= 0]])
    elif positions == "compact":
        assert ids is None
    else:
        skipped = (inputs["attention_mask"] == 0).sum(1)
        for row, place, before in zip(ids, reduced.place, skipped, strict=True):
            assert row[place >= 0].equal(place[place >= 0] - before)


def test_where_attention_is_read(host):
    """Scores are the encoder's own attention, computed again from queries and keys."""
    name, model = host
    inputs = batch(name, model)
    family = foveate.vlm.family_of(model)
    looks = family.looks(inputs, family.tilings(inputs), frozenset({"late", "early", "padded"}))
    tower = model.model.visual if name.startswith("qwen") else model.model.vision_tower
    before = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    try:
        attention = eager_attention(name, model, inputs)
    finally:
        tower.set_attn_implementation(before)
    for n, look in enumerate(looks):
        assert torch.allclose(look.sight.late, attention[n], atol=1e-5), (name, n)


def eager_attention(name: str, model: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    """What each cell receives, from the whole matrices of an eager run."""
    family = foveate.vlm.family_of(model)
    tilings = family.tilings(inputs)
    with torch.no_grad():
        if name.startswith("qwen"):
            unit, visual = family.merge**2, model.model.visual
            maps = spied(lambda: visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]))
            back, first, found = family.raster(inputs["image_grid_thw"]), 0, []
            for n, tiling in enumerate(tilings):
                received = maps[n][0][:, sampled(maps[n].shape[-1])].mean(1).sum(0)
                local = back[first : first + tiling.cells] - first
                found.append(received.unflatten(0, (-1, unit)).sum(1)[local])
                first += tiling.cells
            return found
        tower, block = model.model.vision_tower, 3 if name == "internvl" else 2
        pixels = inputs["pixel_values"]
        if pixels.ndim == 5:
            pixels = torch.cat([p[: t.tiles + 1] for p, t in zip(pixels, tilings, strict=True)])
        if name == "llava_onevision":
            block = 3
        out = tower(pixels, output_attentions=True)
        maps = out.attentions[block]  # [T H N N]
    patches = maps.mean(2).sum(1) if name == "llava_onevision" else maps[:, :, 0, 1:].sum(1)
    found, first = [], 0
    for tiling in tilings:
        own = patches[first : first + tiling.tiles + int(tiling.viewed)]
        first += len(own)
        if name == "internvl":
            found.append(own.unflatten(1, (2, 2, 2, 2)).sum((2, 4)).flatten())
        elif name == "llava":
            found.append(own[0])
        else:
            sources, weights = family.sources(tiling, own.device)
            flat = own.flatten()[sources]
            found.append(flat[:, 0] if weights is None else (flat * weights).sum(1))
    return found


def spied(run: Any) -> list[torch.Tensor]:
    """Attention matrices [1 H N N] of every picture in the last block of Qwen's tower, run eagerly."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as first
    from transformers.models.qwen3_vl import modeling_qwen3_vl as second

    seen: list[torch.Tensor] = []
    olds = [(module, module.eager_attention_forward) for module in (first, second)]

    def wrap(old: Any) -> Any:
        def eager(*args: Any, **kwargs: Any) -> Any:
            out = old(*args, **kwargs)
            seen.append(out[1])
            return out

        return eager

    for module, old in olds:
        module.eager_attention_forward = wrap(old)
    try:
        run()
    finally:
        for module, old in olds:
            module.eager_attention_forward = old
    return seen[-len(vlms.SIZES) :]


# Faults planted


def test_swapped_counts_are_seen(host, monkeypatch: pytest.MonkeyPatch):
    """The host checks the sum of a batch alone; ours is a prompt's."""
    name, model = host
    if name == "llava":
        pytest.skip("its pictures all have the same count")
    inputs = batch(name, model)
    from foveate.vlm import applying

    real = applying.prompt.shorten

    def swapped(prompts: Any, kept: Any) -> Any:
        """The first prompt gets one place less, the second one more: the sum stays."""
        first, second = (k.rows for k in kept)
        more = next(n for n in range(kept[1].tiling.tokens) if n not in second)
        longer = torch.cat([second, torch.tensor([more])]).sort().values
        return real(prompts, [replace(kept[0], rows=first[:-1]), replace(kept[1], rows=longer)])

    monkeypatch.setattr(applying.prompt, "shorten", swapped)
    with pytest.raises(AssertionError, match="picture 0"):
        forced(model, inputs, Budget(ratio=0.3))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_positions_left_out_are_seen_in_the_logits(name: str):
    model = vlms.model(name)
    inputs = batch(name, model)
    wanted = plain(name, model, inputs)
    family = foveate.vlm.family_of(model)
    reduced = reduce(family, BUDGETS["hired"](), ALL, inputs, always=True)
    reduced.inputs.pop("position_ids")
    with torch.no_grad():
        got = model(**reduced.inputs).logits
    real = inputs["attention_mask"].bool()
    assert (got - wanted)[real].abs().max() > 1e-4


# Wrong input


def test_prompts_that_do_not_fit(host):
    name, model = host
    inputs = batch(name, model)
    foveate.vlm.apply(model, 0.3)
    try:
        ids = inputs["input_ids"]
        for changed, told in (
            (torch.where(ids == vlms.IMAGE, 5, ids), "image tokens"),
            (torch.cat([ids, torch.full((len(ids), 1), vlms.IMAGE)], 1), "image tokens"),
        ):
            broken = {**inputs, "input_ids": changed, "attention_mask": torch.ones_like(changed)}
            if "mm_token_type_ids" in broken:
                broken["mm_token_type_ids"] = (changed == vlms.IMAGE).int()
            if name == "internvl":
                broken.pop("image_sizes")
                told = "tile"
            with pytest.raises(InputError, match=told):
                model.generate(**broken, max_new_tokens=1)
        text = torch.tensor([[1, 5, 6]])
        out = model.generate(input_ids=text, attention_mask=torch.ones_like(text), max_new_tokens=2, pad_token_id=0)
        assert out.shape[1] <= 5  # without pictures nothing changes
    finally:
        foveate.vlm.remove(model)


def test_pixels_that_do_not_fit(host):
    """Fewer tiles or patches than sizes say: an error in a line, not a shape deep inside transformers."""
    name, model = host
    inputs = batch(name, model)
    pixels = inputs["pixel_values"]
    broken = pixels[:, :1] if pixels.ndim == 5 else pixels[:-1]
    foveate.vlm.apply(model, 0.3)
    try:
        with pytest.raises(InputError, match=r"pixel_values|image tokens|pictures"):
            model.generate(**{**inputs, "pixel_values": broken}, max_new_tokens=1)
    finally:
        foveate.vlm.remove(model)


def test_apply_and_remove():
    model = vlms.model("llava")
    with pytest.raises(InputError, match="no token budget"):
        foveate.vlm.remove(model)
    assert foveate.vlm.apply(model, 5, "uniform") is model
    with pytest.raises(InputError, match="has a token budget"):
        foveate.vlm.apply(model)
    foveate.vlm.remove(model)
    for call, told in (
        (lambda: foveate.vlm.apply(model, 0.2, "hire"), "known"),
        (lambda: foveate.vlm.apply(model, 0.2, "hired", beta=1), "alpha, newlines, positions"),
        (lambda: foveate.vlm.apply(model, 0.2, "hired", alpha=2), "0 to 1"),
        (lambda: foveate.vlm.apply(model, 0), "at least 1"),
        (lambda: foveate.vlm.apply(torch.nn.Linear(1, 1)), "known: internvl"),
        (lambda: foveate.vlm.apply(model.model.language_model), "llama"),
    ):
        with pytest.raises(InputError, match=told):
            call()
    assert not hasattr(model, "_foveate_budget")

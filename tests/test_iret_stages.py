"""IRET-style models whose tokens widen: what a transition does, token by token; what it costs; two ViTs stitched."""

from functools import cache

import numpy as np
import pytest
import timm
import torch
from support.families import shaken
from timm.models import group_parameters
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from foveate.adapters import adapt, describe
from foveate.adapters.iret import steps_of
from foveate.adapters.macs import macs_of
from foveate.errors import InputError
from foveate.models.iret import IRET, Counts, Thresholds, from_vit, stitch
from foveate.plans import Step
from foveate.runtimes import RUNTIMES
from foveate.train import Incremental

F64 = torch.float64
KINDS = {
    "concat": {"embed_dim": (16, 32, 48), "num_heads": (1, 2, 3), "depth": 5, "transitions": (1, 3)},
    "concat, mean": {"embed_dim": (16, 48), "num_heads": 2, "depth": 4, "transitions": (1,), "class_token": False},
    "stitched": {"embed_dim": (16, 32), "num_heads": (1, 2), "depth": 4, "transitions": (1,), "init_values": 0.5},
}


def made(kind: str, **more) -> IRET:
    torch.manual_seed(0)
    options = {"img_size": 64, "num_classes": 5, "sampling": "polyphase", "widening": kind.partition(",")[0]}
    return shaken(IRET(**{**options, **KINDS[kind], **more})).eval()


def images(count: int, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 64, 64, generator=generator, dtype=dtype)


def behind(model: IRET, i: int, x: torch.Tensor, point=None):
    """The state behind block `i`, before anything that lies between it and the next."""
    state = model.begin(x)
    for block in range(i):
        state = model.cross(block, model.block(block, state, point), point)
    return model.block(i, state, point)


# What a transition does.


def patches(x):
    """[B 16 3 p p] of square images."""
    p = x.shape[-1] // 4
    return x.unflatten(-1, (4, p)).unflatten(-3, (4, p)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def test_concat_is_what_the_formula_says_token_by_token():
    model, x = made("concat").double(), images(2, F64)
    point = Counts(keep=(9, 5), focus=(4, 2))
    before = behind(model, 1, x, point)
    assert before.x.shape == (2, 17, 16) and before.patch is None  # stage 1 ends as it began
    after = model.cross(1, before, point)
    assert after.x.shape == (2, 10, 32)
    w, bands = model.widenings[0], model.lifting(patches(x).flatten(0, 1))
    lh, hl = (b.unflatten(0, (2, 16)) for b in (bands.lh, bands.hl))
    order = before.score.sort(dim=1, descending=True).indices
    for image in range(2):
        wanted = [torch.cat((before.x[image, 0], w.cls_token[0]))]
        for rank, patch in enumerate(order[image, :9].tolist()):
            new = w.none + w.pos_embed[patch]
            if rank < 4:
                pixels = torch.cat((lh[image, patch].flatten(), hl[image, patch].flatten()))
                new = new + model.details[0].weight @ pixels
            wanted.append(torch.cat((before.x[image, 1 + patch], new)))
        rows = torch.stack(wanted)
        rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
        rows = (rows * w.norm.weight + w.norm.bias) @ w.mix.weight.T + w.mix.bias
        torch.testing.assert_close(after.x[image], rows)


def test_stitched_is_what_the_formula_says_token_by_token():
    model, x = made("stitched").double(), images(2, F64)
    point = Counts(keep=(9,), focus=(4,))
    before = behind(model, 1, x, point)
    after, w = model.cross(1, before, point), model.widenings[0].map
    order = before.score.sort(dim=1, descending=True).indices
    for image in range(2):
        wanted = [w.weight @ before.x[image, 0] + w.bias]
        for rank, patch in enumerate(order[image, :9].tolist()):
            token = w.weight @ before.x[image, 1 + patch] + w.bias
            if rank < 4:
                bands = model.lifting(patches(x)[image, patch : patch + 1])
                detail = model.details[0].weight @ torch.cat([b.flatten() for b in bands[1:]])
                token = token + model.admit[0].weight @ detail + model.admit[0].bias
            wanted.append(token)
        torch.testing.assert_close(after.x[image], torch.stack(wanted))


def test_before_training_a_widening_mixes_nothing():
    concat = IRET(img_size=64, widening="concat", embed_dim=(16, 32), num_heads=1, transitions=(3,)).widenings[0]
    x = torch.randn(2, 17, 32)
    torch.testing.assert_close(concat.settle(x), torch.nn.functional.layer_norm(x, (32,), eps=1e-6))
    stitched = IRET(img_size=64, widening="stitched", embed_dim=(16, 32), num_heads=1, transitions=(3,)).widenings[0]
    x = torch.randn(2, 17, 16)
    torch.testing.assert_close(stitched(x, None).norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize("transitions", [(1, 3), (-1, 3)])
def test_who_is_focused_late_gets_what_it_missed(transitions):
    """Channels of the first detail are filled at the last transition, for those that had not got it."""
    model, x = made("concat", transitions=transitions), images(1)
    state = behind(model, 3, x, Counts(keep=(16, 16), focus=(3, 16)))
    seen = []
    model.widenings[1].norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    had = state.content if isinstance(state.content, torch.Tensor) else torch.full((1, 16), state.content)
    assert had.sum() == (3 if transitions[0] == 1 else 16)
    wide = model.cross(3, state)
    assert wide.content == 2 or (wide.content == 2).all()
    order = torch.arange(16) if state.patch is None else state.patch[0]
    bands = model.lifting(patches(x)[0, order])
    first = model.details[0](torch.cat((bands.lh.flatten(1), bands.hl.flatten(1)), 1))
    got = seen[0][0, 1:, 16:32] - state.x[0, 1:, 16:32]
    torch.testing.assert_close(got, first * (had[0] < 1)[:, None], rtol=1e-4, atol=1e-4)
    again = model.widenings[1](state.x, state.patch)[0, 1:, 32:]
    torch.testing.assert_close(seen[0][0, 1:, 32:] - again, model.details[1](bands.hh.flatten(1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_dropped_or_coarse_token_no_more_than_the_coarse_band_is_read(kind):
    model, x = made(kind), images(1)
    point = Counts(keep=(7, 5), focus=(3, 2))
    first = model.transitions[0]
    state = model.cross(first, behind(model, first, x, point), point)
    looked = set(state.patch[0, :3].tolist())
    if len(model.transitions) > 1:
        later = model.cross(3, behind(model, 3, x, point), point)
        looked |= set(later.patch[0, :2].tolist())
    fine = torch.ones(16, 16, dtype=torch.bool)
    fine[::2, ::2] = False
    before = model(x, point)
    for patch in range(16):
        changed, (row, column) = x.clone(), divmod(patch, 4)
        changed[0, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16][:, fine] += 1.0
        assert torch.equal(model(changed, point), before) == (patch not in looked)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "point", [Counts(keep=(9, 5), focus=(4, 3)), Thresholds(drop=(0.7, 0.9), focus=(1.0, 1.1))], ids=["counts", "tau"]
)
def test_alone_is_as_in_a_batch(kind, point):
    model = made(kind)
    x = images(4) * torch.linspace(0.2, 3, 4)[:, None, None, None]
    alone = torch.cat([model(one[None], point) for one in x])
    torch.testing.assert_close(model(x, point), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_keeping_and_focusing_all_is_the_default(kind):
    model, x = made(kind), images(2)
    for point in (Counts(keep=(16,)), Thresholds(drop=(0.0,), focus=(0.0,))):
        torch.testing.assert_close(model(x, point), model(x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model(x, Counts(keep=(16,), focus=(0,))), model(x), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_exits_are_as_wide_as_their_stage_and_stand_before_its_end_is_decided(kind):
    model, x = made(kind), images(2)
    answers = list(model.anytime(x))
    assert [i for i, _ in answers] == [*model.transitions, model.depth - 1]
    assert [h.in_features for h in (*model.exit_heads, model.head)] == list(KINDS[kind]["embed_dim"])
    fewer = list(model.anytime(x, Counts(keep=(5,))))
    assert torch.equal(fewer[0][1], answers[0][1]) and not torch.allclose(fewer[-1][1], answers[-1][1], atol=1e-3)
    taught = model.train()(x)
    for ours, (_, logits) in zip((*taught[1:], taught[0]), answers, strict=True):
        torch.testing.assert_close(ours, logits)


# What it costs: the specification's table, of which MACs of lifting and of the widenings' own maps are left out.

KEEP = {1.0: 196, 0.7: 137, 0.5: 98, 0.49: 96, 0.25: 49}
TABLE = [
    ("iret_concat_base3_patch16_224", (1.0, 1.0), (0.416, 1.944, 7.775)),
    ("iret_concat_base3_patch16_224", (0.7, 0.49), (0.416, 1.461, 4.273)),
    ("iret_concat_base3_patch16_224", (0.5, 0.25), (0.416, 1.154, 2.589)),
    ("iret_concat_small3_patch16_224", (0.7, 0.49), (0.121, 0.399, 1.119)),
    ("iret_stitched_small2_patch16_224", (1.0,), (0.416, 3.465)),
    ("iret_stitched_small2_patch16_224", (0.7,), (0.416, 2.502)),
    ("iret_stitched_small2_patch16_224", (0.5,), (0.416, 1.888)),
]


@cache
def on_meta(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **options)


def at_exits(name: str, ratios: tuple[float, ...], **options) -> tuple[int, ...]:
    model = on_meta(name, **options)
    facts = describe(model)
    return facts.exit_macs(facts.cut(steps_of(model, Counts(keep=tuple(KEEP[r] for r in ratios)))))


@pytest.mark.parametrize(("name", "ratios", "gmacs"), TABLE)
def test_macs_are_those_of_the_specification(name, ratios, gmacs):
    """It counts a stitched model's detail in the new channels alone, as if it were concat's; a ViT embeds it in all."""
    found = at_exits(name, ratios, widening="concat")
    assert tuple(round(n / 1e9, 3) for n in found) == gmacs
    first, last = 0, 0
    if "stitched" in name:  # deployed from all 768 pixels, not from bands of 192 and 576
        first = 196 * 576 * 192
        last = first + KEEP[ratios[0]] * (768 * 384 - 576 * 192)
    assert at_exits(name, ratios) == (found[0] + first, *found[1:-1], found[-1] + last)


@pytest.mark.parametrize("kind", KINDS)
def test_the_formula_is_what_torch_counts_but_for_widening_and_looking(kind):
    model = made(kind)
    facts, steps = describe(model), list(steps_of(model, Counts(keep=(9, 5))))
    schedule, p = facts.cut(steps), model.num_prefix_tokens
    left = [schedule.after[t] for t in model.transitions]
    if kind == "stitched":  # the map of all tokens; what admits a detail is folded into what embeds it
        widening = 10 * 16 * 32
    else:
        widening = sum(n * d * d for n, d in zip(left, KINDS[kind]["embed_dim"][1:], strict=True))
    looks = [b for b in range(model.depth) if model.looked(b)]  # once more the rows of attention that decide
    looking = sum(schedule.before[b] * model.widths[b] * (p or schedule.before[b]) for b in looks)
    assert macs_of(model, steps).total == facts.macs(schedule) + widening + looking
    heads = sum(h.in_features * 5 for h in model.exit_heads)
    assert facts.exit_macs(schedule)[-1] == facts.macs(schedule) + heads


# As foveate's.


@pytest.mark.parametrize(
    ("kind", "more", "point"),
    [
        ("concat", {}, None),
        ("concat", {}, Counts(keep=(16, 7), focus=(5, 7))),
        ("concat", {"transitions": (-1, 1)}, Counts(keep=(9,), focus=(4,))),
        *((kind, {}, Counts(keep=(9, 5), focus=(4, 3))) for kind in KINDS),
    ],
    ids=str,
)
def test_a_plan_is_an_operating_point(kind, more, point):
    model, x = made(kind, **more), images(3)
    steps = [] if point is None else steps_of(model, point)
    reduced = adapt(model, steps)
    torch.testing.assert_close(reduced(x), model(x, point), rtol=1e-4, atol=1e-4)
    if point is not None:
        assert reduced.dry_run()[1] == model.num_prefix_tokens + point.keep[0]


def test_behind_the_last_decision_a_token_is_a_vits():
    model, x = made("concat"), images(2)
    steps = list(steps_of(model, Counts(keep=(12, 10))))
    reduced = adapt(model, [*steps, Step(block=4, method="tome", tokens=8)])
    assert reduced.dry_run() == (17, 13, 13, 11, 8) and reduced(x).shape == (2, 5)
    assert reduced.features(x).shape == (2, 17, 48)
    with pytest.raises(InputError, match=r"allowed: blocks 1, 3 by topk"):
        adapt(model, [Step(block=2, method="tome", tokens=14)])


def test_an_operating_point_answers_as_in_torch(tmp_path):
    model, x = made("concat", embed_dim=(16, 32), num_heads=2, depth=2, transitions=(0,)), images(2)
    point = Counts(keep=(10,), focus=(5,))
    with torch.no_grad():
        wanted = model(x, point).numpy()
    reduced = adapt(model, steps_of(model, point)).eval()
    runtime = RUNTIMES["onnxruntime"]
    answer = runtime.load(
        runtime.build(reduced, tmp_path, shape=(1, 3, 64, 64), precision="fp32"), precision="fp32", threads=1
    )
    found = np.concatenate([answer(one[None]) for one in x.numpy()])
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_training_for_every_operating_point(kind):
    model, task, x = made(kind).train(), Incremental(least=0.3, warm=0.5), images(8)
    labels = torch.eye(5)[torch.arange(8) % 5]
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    torch.manual_seed(0)
    task.share = 1.0
    losses = task(model, x, labels)
    assert set(losses) == {"label", *(f"exit {i + 1}" for i in range(len(model.transitions))), "least", "drawn"}
    sum(losses.values()).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]
    optimiser.step()
    task.share = 0.0
    assert task(model, x, labels)["label"] < losses["label"]


def test_learning_rates_that_fall_with_depth_reach_a_widening_with_its_block():
    model = made("concat")
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert groups["widenings.0.mix.weight"] == groups["blocks.1.mlp.fc1.weight"]
    assert groups["widenings.1.none"] == groups["blocks.3.norm1.weight"]
    assert {"widenings.0.pos_embed", "widenings.1.cls_token", "pos_embed"} <= model.no_weight_decay()


# Out of two ViTs.


def vit(width: int, **more) -> VisionTransformer:
    torch.manual_seed(width)
    sizes = {"img_size": 64, "patch_size": 16, "depth": 4, "num_heads": 2, "num_classes": 5, "init_values": 0.5}
    return shaken(VisionTransformer(**{**sizes, "embed_dim": width, **more})).eval()


MEAN = {"class_token": False, "global_pool": "avg", "fc_norm": True}


@pytest.mark.parametrize("seen", [None, 6], ids=["no images", "images"])
@pytest.mark.parametrize("options", [{}, MEAN], ids=["class token", "mean"])
def test_where_a_linear_map_is_all_that_parts_two_vits_stitching_finds_it(options, seen):
    """Their first blocks do nothing, and the wide one embeds by a map of the narrow one's: then it is the wide one."""
    narrow, wide, to = vit(24, **options), vit(32, **options), torch.randn(32, 24) / 5
    with torch.no_grad():
        for each in (narrow, wide):
            for block in each.blocks[:2]:
                block.ls1.gamma.zero_()
                block.ls2.gamma.zero_()
        wide.patch_embed.proj.weight.copy_(torch.einsum("ab,bcij->acij", to, narrow.patch_embed.proj.weight))
        wide.patch_embed.proj.bias.copy_(to @ narrow.patch_embed.proj.bias)
        wide.pos_embed.copy_(narrow.pos_embed @ to.T)
        if not options:
            wide.cls_token.copy_(narrow.cls_token @ to.T)
    model = stitch(narrow, wide, first=2, images=None if seen is None else images(seen)).eval()
    torch.testing.assert_close(model.widenings[0].map.weight, to, rtol=1e-3, atol=1e-3)
    x = images(3) * 2
    torch.testing.assert_close(model(x), wide(x), rtol=1e-2, atol=1e-2)
    assert not torch.allclose(model(x, Counts(keep=(16,), focus=(0,))), wide(x), atol=0.1)


def test_images_fit_the_map_to_what_the_blocks_make_of_them():
    narrow, wide, x = vit(24), vit(32), images(6)
    errors = []
    for seen in (None, x):
        model = stitch(narrow, wide, first=2, images=seen).eval()
        assert model.transitions == (1,) and model.widths == (24, 24, 32, 32)
        state = model.cross(1, behind(model, 1, x))
        wanted = wide.blocks[:2](wide._pos_embed(wide.patch_embed(x)))
        errors.append((state.x - wanted).square().mean())
    assert errors[1] < errors[0]
    narrow_alone = from_vit(narrow, transitions=(1,)).eval()
    assert torch.equal(next(model.anytime(x))[1], narrow_alone.exit(1, narrow_alone.block(1, coarse(narrow_alone, x))))
    assert torch.equal(model.head.weight, wide.head.weight) and torch.equal(model.norm.weight, wide.norm.weight)


def coarse(model: IRET, x: torch.Tensor):
    """Behind block 0, and nobody focused in block 1."""
    model.turn = lambda i, state, at: state
    return model.block(0, model.begin(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IRET(widening="wavelet"), "unknown widening 'wavelet'; known: concat, residual, stitched"),
        (lambda: IRET(embed_dim=(96, 192)), "with widening 'residual'; allowed: one width"),
        (lambda: IRET(widening="concat"), r"embed_dim is \(192,\) .* allowed: two rising widths or more"),
        (lambda: IRET(widening="concat", embed_dim=(32, 16)), "allowed: 2 rising widths"),
        (lambda: IRET(widening="concat", embed_dim=(16, 32), transitions=(3, 7)), "allowed: 3 rising widths"),
        (lambda: IRET(widening="concat", embed_dim=(16, 32), num_heads=1, transitions=(11,)), "allowed: up to 10"),
        (lambda: IRET(widening="stitched", embed_dim=(16, 32, 64), num_heads=1), "allowed: two widths"),
        (lambda: IRET(widening="concat", embed_dim=(16, 32), num_heads=(1, 2, 4)), "num_heads is"),
        (lambda: IRET(widening="concat", embed_dim=(16, 32), num_heads=5), "that divide"),
        (lambda: IRET(widening="concat", embed_dim=(1, 2, 3, 4, 5), num_heads=1), "there are four bands"),
        (
            lambda: IRET(widening="concat", embed_dim=(16, 32), num_heads=1, contents=(("ll",), ("lh",), ("hl", "hh"))),
            "2 details for 1 transitions",
        ),
        (lambda: stitch(vit(24), torch.nn.Linear(1, 1)), "stitch takes timm's VisionTransformer; got a Linear"),
        (lambda: stitch(vit(24), vit(32, depth=3)), "depth of the two ViTs is 4 and 3"),
        (lambda: stitch(vit(24), vit(32, **MEAN)), "class_token of the two ViTs is True and False"),
        (lambda: stitch(vit(24), vit(32, num_classes=4)), "num_classes of the two ViTs is 5 and 4"),
        (lambda: stitch(vit(24), vit(32), first=4), "first is 4; allowed: 1 to 3"),
        (lambda: stitch(vit(32), vit(24), first=1), "rising widths"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()

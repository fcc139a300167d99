"""IRET-style models: lifting is exact and local, decisions mean what they say, and full detail is the model it was."""

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from foveate.adapters import adapt, describe
from foveate.adapters.iret import steps_of
from foveate.errors import InputError
from foveate.models.iret import IRET, Counts, Thresholds, from_vit
from foveate.models.iret.deciding import LEAST, decide, relevance
from foveate.models.iret.lifting import SAMPLINGS, STARTS, Bands, Lifting
from foveate.plans import Step
from foveate.runtimes import RUNTIMES, sharing_graphs

F64 = torch.float64


def learnt(start="haar", sampling="lowpass", dtype=F64, hidden=None):
    """As after training: nothing is zero."""
    torch.manual_seed(0)
    lifting = Lifting(3, start, sampling, hidden).to(dtype)
    with torch.no_grad():
        for p in lifting.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return lifting


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("hidden", [None, 0])
def test_lifting_is_undone_exactly_whatever_is_learnt(start, sampling, dtype, tolerance, hidden):
    lifting, x = learnt(start, sampling, dtype, hidden), torch.randn(5, 3, 16, 16, dtype=dtype)
    bands = lifting(x)
    assert all(b.shape == (5, 3, 8, 8) for b in bands)
    assert (lifting.inverse(bands) - x).abs().max() < tolerance
    assert torch.equal(lifting.begin(lifting.quarters(x))[0], bands.ll)


def test_what_haar_is():
    x = torch.randn(4, 3, 16, 16, dtype=F64)
    bands = Lifting().double()(x)
    means = torch.nn.functional.avg_pool2d(x, 2)
    torch.testing.assert_close(bands.ll, means)
    even, odd = x[..., 0::2, :], x[..., 1::2, :]
    rows = (even + odd) / 2
    torch.testing.assert_close(bands.hl, rows[..., 1::2] - rows[..., 0::2])


def test_cdf53_leaves_nothing_of_a_slope():
    ramp = torch.arange(16.0).expand(1, 3, 16, 16)
    bands = Lifting(start="cdf53")(ramp)
    assert bands.hl[..., :-1].abs().max() == 0 and bands.lh.abs().max() == 0 and bands.hh.abs().max() == 0


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("count", [1, 7, 98])
def test_gathering_and_lifting_commute_bit_for_bit(sampling, count):
    lifting, patches = learnt("cdf53", sampling, torch.float32), torch.randn(196, 3, 16, 16)
    picks = torch.randperm(196)[:count]
    for all_bands, few in zip(lifting(patches), lifting(patches[picks]), strict=True):
        assert torch.equal(all_bands[picks], few)
    rest = lifting.begin(lifting.quarters(patches))[1]  # what a model keeps of the patches it may look at again
    for all_bands, few in zip(lifting(patches)[1:], lifting.finish(rest[picks]), strict=True):
        assert torch.equal(all_bands[picks], few)


def test_polyphase_reads_a_quarter_of_the_pixels():
    lifting, x = learnt(sampling="polyphase"), torch.randn(2, 3, 16, 16, dtype=F64, requires_grad=True)
    lifting.begin(lifting.quarters(x))[0].sum().backward()
    assert (x.grad != 0).double().mean() == 0.25


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_an_embedding_splits_into_bands_exactly(start, sampling):
    torch.manual_seed(0)
    lifting, weight, x = (
        Lifting(3, start, sampling).double(),
        torch.randn(7, 3, 16, 16, dtype=F64),
        torch.randn(5, 3, 16, 16, dtype=F64),
    )
    parts = [torch.einsum("dcij,ncij->nd", w, b) for w, b in zip(lifting.split(weight), lifting(x), strict=True)]
    whole = torch.einsum("dcij,ncij->nd", weight, x)
    assert (sum(parts) - whole).abs().max() < 1e-12 * whole.abs().max() * 100
    bent = learnt(start, sampling)
    before = [p.clone() for p in bent.parameters()]
    bent.split(weight)
    assert all(torch.equal(a, b) for a, b in zip(before, bent.parameters(), strict=True))


def test_odd_sides_and_unknown_words_are_refused():
    with pytest.raises(InputError, match="a patch is 7 x 8; allowed: even sides"):
        Lifting()(torch.zeros(1, 3, 7, 8))
    with pytest.raises(InputError, match=r"start.*db4.*haar"):
        Lifting(start="db4")
    with pytest.raises(InputError, match="fast"):
        Lifting(sampling="fast")
    assert isinstance(Lifting()(torch.zeros(1, 3, 8, 8)), Bands)


SMALL = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 6, "num_heads": 3, "num_classes": 5}


def vit(**more):
    torch.manual_seed(0)
    model = VisionTransformer(**{**SMALL, "init_values": 0.5, **more})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def made(transitions=(1, 3), **more):
    model = from_vit(vit(), transitions=transitions, **more)
    with torch.no_grad():
        for p in (*model.lifting.parameters(), *model.details.parameters(), *model.admit.parameters()):
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


GAP = {"class_token": False, "global_pool": "avg", "fc_norm": True}


@pytest.mark.parametrize("options", [{}, GAP, {"init_values": None}], ids=["class token", "mean", "no LayerScale"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("start", STARTS)
def test_all_detail_before_block_0_is_the_base_model(options, sampling, start):
    base, x = vit(**options).double(), torch.randn(3, 3, 64, 64, dtype=F64)
    model = from_vit(base.float(), transitions=(-1,), sampling=sampling, start=start).double().eval()
    base.double()
    torch.testing.assert_close(model(x), base(x), rtol=1e-6, atol=1e-6)  # float32 weights were split


def test_coarse_alone_is_not_the_base_model():
    base, x = vit(), torch.randn(3, 3, 64, 64)
    assert not torch.allclose(from_vit(base, transitions=(5,)).eval()(x), base(x), atol=1e-2)


def test_keeping_and_focusing_all_is_the_default():
    model, x = made(), torch.randn(2, 3, 64, 64)
    for point in (Counts(keep=(16,)), Thresholds(drop=(0.0,)), Thresholds(drop=(0.0,), focus=(0.0,))):
        torch.testing.assert_close(model(x, point), model(x), rtol=1e-4, atol=1e-5)


POINTS = [
    Counts(keep=(9, 5)), Counts(keep=(9, 5), focus=(4, 3)), Counts(keep=(12,), focus=(0,)),
    Thresholds(drop=(0.9, 1.0)), Thresholds(drop=(0.7, 0.9), focus=(1.0, 1.1)),
]  # fmt: skip


@pytest.mark.parametrize("point", POINTS, ids=str)
@pytest.mark.parametrize("options", [{}, GAP], ids=["class token", "mean"])
def test_alone_is_as_in_a_batch(point, options):
    torch.manual_seed(1)
    x = torch.randn(4, 3, 64, 64) * torch.linspace(0.2, 3, 4)[:, None, None, None]
    model = from_vit(vit(**options), transitions=(1, 3)).eval()
    together = model(x, point)
    torch.testing.assert_close(together, torch.cat([model(one[None], point) for one in x]), rtol=1e-4, atol=1e-5)


def turns(model, x, point):
    """The states right after every transition."""
    state, found = model.begin(x), []
    for i in range(model.depth):
        state = model.block(i, state, point)
        if i in model.transitions:
            found.append(state)
    return found


def test_a_dropped_token_is_read_no_further_than_its_coarse_band():
    model, x = made(sampling="polyphase"), torch.randn(1, 3, 64, 64)
    point = Counts(keep=(6,), focus=(2,))
    state = turns(model, x, point)[0]
    looked = set(state.patch[0, :2].tolist())
    fine = torch.ones(16, 16, dtype=torch.bool)
    fine[::2, ::2] = False  # the even pixels of even rows are the coarse band
    before = model(x, point)
    for patch in range(16):
        changed = x.clone()
        row, column = divmod(patch, 4)
        where = changed[0, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        where[:, fine] += 1.0
        same = torch.equal(model(changed, point), before)
        # Focused later, at the second transition, is focused too.
        later = set(turns(model, x, point)[1].patch[0, :2].tolist())
        assert same == (patch not in looked | later)


def test_a_token_focused_late_gets_what_it_missed():
    """Three contents: whoever is focused at the last transition alone ends with the detail of both."""
    contents = (("ll",), ("lh", "hl"), ("hh",))
    base = vit()
    model, x = (
        from_vit(base, transitions=(1, 3), contents=contents).double().eval(),
        torch.randn(1, 3, 64, 64, dtype=F64),
    )
    state = model.begin(x)
    late = model.sharpen(state, 16, None, 1)
    early = model.sharpen(model.sharpen(state, 7, None, 0), 16, None, 1)
    torch.testing.assert_close(late.x, early.x)
    whole = base.double()._pos_embed(base.patch_embed(x))
    torch.testing.assert_close(late.x, whole, rtol=1e-6, atol=1e-6)
    assert late.content == 2 and early.content == 2
    half = model.sharpen(state, 7, None, 0)
    assert half.content.tolist() == [[1] * 7 + [0] * 9]


def test_relevance_has_a_mean_of_one_and_rises_nowhere_above_a_threshold():
    torch.manual_seed(0)
    score, valid = torch.rand(3, 40), torch.arange(40) < torch.tensor([[40], [25], [9]])
    r = relevance(score, valid)
    for row, there in zip(r, valid, strict=True):
        assert row[there].mean().item() == pytest.approx(1, abs=1e-6) and (row[~there] == -1).all()
    last = None
    for tau in (0.0, 0.3, 0.8, 1.2, 2.5):
        d = decide(r, Thresholds(drop=(tau,), focus=(tau + 0.2,)), 0)
        assert d.kept.tolist() == [
            max(min(LEAST, n), int((row >= tau).sum())) for row, n in zip(r, (40, 25, 9), strict=True)
        ]
        assert (d.focused >= 1).all() and (d.focused <= d.kept).all()
        assert last is None or (d.kept <= last).all()
        last = d.kept
        for row, index, kept in zip(r, d.index, d.kept, strict=True):
            picked = row[index[:kept]]
            assert (picked.diff() <= 0).all() and len(set(index[:kept].tolist())) == kept


def test_scores_are_what_a_slow_reference_gives():
    model, x = made(), torch.randn(2, 3, 64, 64)
    state, score = model.begin(x), None
    for i in (0, 1):
        block = model.blocks[i]
        y = block.norm1(state.x)
        q, k, _ = block.attn.qkv(y).view(2, 17, 3, 3, 16).unbind(2)
        rows = torch.stack([(q[:, :, h] @ k[:, :, h].mT * 16**-0.5).softmax(-1)[:, 0, 1:] for h in range(3)]).mean(0)
        score = rows if score is None else 0.99 * score + 0.01 * rows
        after = model.attend(i, state)
        torch.testing.assert_close(after.score, score)
        torch.testing.assert_close(model.mlp(i, after.x), block(state.x))  # and otherwise timm's own block
        state = after._replace(x=model.mlp(i, after.x))


def test_exits_are_taught_and_asked_in_order():
    model, x = made(), torch.randn(2, 3, 64, 64)
    answers = list(model.anytime(x))
    assert [i for i, _ in answers] == [1, 3, 5]
    torch.testing.assert_close(answers[-1][1], model(x))
    taught = model.train()(x)
    assert len(taught) == 3
    for ours, (_, logits) in zip((*taught[1:], taught[0]), answers, strict=True):
        torch.testing.assert_close(ours, logits)
    sum(t.square().sum() for t in taught).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


# As foveate's.


@pytest.mark.parametrize("contents", [(("ll",), ("lh", "hl", "hh")), (("ll",), ("lh", "hl"), ("hh",))], ids=len)
@pytest.mark.parametrize("options", [{}, GAP], ids=["class token", "mean"])
@pytest.mark.parametrize(
    "point",
    [
        None,
        Counts(keep=(9, 5)),
        Counts(keep=(9, 5), focus=(4, 3)),
        Counts(keep=(16, 7), focus=(5, 7)),
        Counts(keep=(9,)),
    ],
    ids=str,
)
def test_a_plan_is_an_operating_point(point, options, contents):
    model, x = from_vit(vit(**options), transitions=(1, 3), contents=contents).eval(), torch.randn(3, 3, 64, 64)
    steps = [] if point is None else steps_of(model, point)
    reduced = adapt(model, steps)
    torch.testing.assert_close(reduced(x), model(x, point), rtol=1e-4, atol=1e-5)
    if point is not None:
        assert reduced.dry_run()[1] == model.num_prefix_tokens + point.keep[0]


@pytest.mark.parametrize("focus", [(9, 7, 5), (5, 7, 5), (5, 7, 3), (5, 4, 3)])
def test_who_has_its_detail_gets_it_no_second_time(focus):
    model, x = from_vit(vit(), transitions=(0, 2, 4)).eval(), torch.randn(3, 3, 64, 64)
    point = Counts(keep=(9, 7, 5), focus=focus)
    torch.testing.assert_close(adapt(model, steps_of(model, point))(x), model(x, point), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"sampling": "polyphase"}, {"start": "cdf53", "transitions": (-1, 3)}], ids=str
)
def test_what_is_folded_answers_as_before(options):
    model, x = from_vit(vit(), **({"transitions": (1, 3)} | options)).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for p in (*model.lifting.parameters(), *model.admit.parameters()):
            p.add_(0.1 * torch.randn_like(p))
    reduced = adapt(model, steps_of(model, Counts(keep=(9, 5), focus=(4, 5)))).eval()
    deployed = reduced.for_inference()
    torch.testing.assert_close(deployed(x), reduced(x), rtol=1e-4, atol=1e-5)
    assert deployed.trunk.fold is not None and deployed.for_inference() is deployed and reduced.trunk.fold is None
    assert (
        not set(deployed.state_dict()) - set(reduced.state_dict()) - {k for k in deployed.state_dict() if ".fold." in k}
    )
    bent = adapt(from_vit(vit(), transitions=(1, 3), hidden=6).eval(), [])
    assert bent.for_inference() is bent


def test_behind_the_last_decision_a_token_is_a_vits():
    model, x = from_vit(vit(), transitions=(1, 3)).eval(), torch.randn(2, 3, 64, 64)
    steps = [*steps_of(model, Counts(keep=(12, 10))), Step(block=4, method="tome", tokens=8)]
    reduced = adapt(model, steps)
    assert reduced.dry_run() == (17, 13, 13, 11, 8, 8) and reduced(x).shape == (2, 5)
    kept = reduced.trace(x)[1]
    assert ((kept >= 0).sum(1) == 12).all()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step(block=1, method="tome", tokens=12), "allowed: method topk, not 'tome'"),
        (Step(block=2, method="topk", tokens=12), r"allowed: blocks 1, 3 by topk, and later ones by any method"),
        (Step(block=1, method="topk", tokens=12, options={"focus": 12}), "focus is 12 at block 1; allowed: 1 to 11"),
        (Step(block=1, method="topk", tokens=12, options={"fuse": True}), "option 'fuse' at block 1; allowed: focus"),
    ],
)
def test_steps_that_an_iret_does_not_take(step, message):
    with pytest.raises(InputError, match=message):
        adapt(from_vit(vit(), transitions=(1, 3)), [step])


def test_in_the_registry():
    model = timm.create_model("iret_residual_tiny_patch16_224", num_classes=10).eval()
    facts, base = describe(model), describe(timm.create_model("vit_tiny_patch16_224", num_classes=10))
    # A linear lifting is deployed from the pixels: those of a patch are multiplied twice.
    assert (facts.tokens, facts.turns) == (197, (3, 7))
    assert facts.macs(facts.cut(())) == base.macs(base.cut(())) + 196 * 768 * 192
    bent = describe(timm.create_model("iret_residual_tiny_patch16_224", num_classes=10, hidden=6))
    assert bent.macs(bent.cut(())) == base.macs(base.cut(()))
    assert sum(p.numel() for p in model.lifting.parameters()) < 1000
    point = facts.cut(steps_of(model, Counts(keep=(98, 49))))
    assert point.after == (*[197] * 3, *[99] * 4, *[50] * 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IRET(transitions=(5, 3)), "transitions are"),
        (lambda: IRET(depth=4, transitions=(4,)), "allowed: rising blocks from -1 to 3"),
        (lambda: IRET(contents=(("ll",), ("lh", "hl"))), "contents are"),
        (lambda: IRET(contents=(("ll",), ("lh",), ("hl",), ("hh",)), transitions=(1,)), "3 details for 1 transitions"),
        (lambda: IRET(img_size=65), "do not divide 65"),
        (lambda: IRET(num_classes=3)(torch.zeros(1, 3, 64, 64)), "allowed: 224 x 224"),
        (lambda: from_vit(torch.nn.Linear(1, 1)), "got a Linear"),
        (lambda: from_vit(vit(reg_tokens=2)), "registers"),
        (lambda: from_vit(vit(qk_norm=True)), "do not fit"),
        (lambda: from_vit(vit(global_pool="avg")), "pooling 'avg'"),
        (lambda: Counts(keep=(5, 9)), "do not grow"),
        (lambda: Counts(keep=(5,), focus=(9,)), "none larger"),
        (lambda: Thresholds(drop=(1.0,), focus=(0.5,)), "no less"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises((InputError, ValueError), match=message):
        make()


def test_an_operating_point_answers_as_in_torch(tmp_path):
    model, x = from_vit(vit(depth=3), transitions=(0, 1)).eval(), torch.randn(3, 3, 64, 64)
    point = Counts(keep=(10, 6), focus=(5, 6))
    with torch.no_grad():
        wanted = model(x, point).numpy()
    reduced = adapt(model, steps_of(model, point)).eval()
    with sharing_graphs():
        for runtime in ("onnxruntime", "openvino"):
            (tmp_path / runtime).mkdir()
            file = RUNTIMES[runtime].build(reduced, tmp_path / runtime, shape=(1, 3, 64, 64), precision="fp32")
            answer = RUNTIMES[runtime].load(file, precision="fp32", threads=1)
            found = np.concatenate([answer(one[None]) for one in x.numpy()])
            np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)

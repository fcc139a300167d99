"""Exact scores and the whole search, on a tiny ViT with weights that make its answers depend on the image."""

import itertools

import numpy as np
import pytest
import timm
import torch
from support.families import randomised

import foveate.models  # noqa: F401  puts ours into timm's registry
from foveate.adapters import adapt, describe
from foveate.errors import InputError
from foveate.evaluate.judges import JUDGES, Classes, Masks, make_judge
from foveate.models.iret import from_vit
from foveate.planners import Archive, Curve, LatencyTable, ReduceCost, Scored
from foveate.planners.space import key_of
from foveate.planning import Evaluator, plan_candidates, plan_pomt
from foveate.planning.evaluator import Score
from foveate.planning.search import Goal
from foveate.planning.start import default_counts, space_of
from foveate.plans import Step
from foveate.schedule import Schedule


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    m = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, patch_size=8, embed_dim=32, depth=6, num_heads=2, num_classes=7
    )
    with torch.no_grad():
        for p in m.parameters():
            p.add_(0.08 * torch.randn_like(p))
    return m.eval()


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(24, 3, 8, 8)).repeat(8, axis=2).repeat(8, axis=3)
    return (coarse + 0.3 * rng.normal(size=(24, 3, 64, 64))).astype(np.float32)


@pytest.fixture(scope="module")
def table():
    n = list(range(3, 66))
    return LatencyTable(
        fixed_ms=2.0,
        block=Curve(tokens=n, ms=[float(x) for x in n]),
        attention=Curve(tokens=n, ms=[0.4 * x for x in n]),
        reduce={"tome": ReduceCost(fixed_ms=1.0)},
    )


def plan(**cuts):
    """plan(tome2=40) is ToMe to 40 tokens in block 2."""
    return tuple(Step(block=int(k[-1]), method=k[:-1], tokens=n) for k, n in cuts.items())


def direct(model, images, steps):
    with torch.inference_mode():
        p = model(torch.from_numpy(images)).double().log_softmax(-1)
        q = adapt(model, steps)(torch.from_numpy(images)).double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).numpy(), (p.argmax(-1) == q.argmax(-1)).numpy(), q.argmax(-1).numpy()


PLANS = [
    plan(tome2=40),
    plan(topk1=50, tome3=30),
    plan(topk1=50, tome3=30, topk5=3),
    plan(topk1=50, tome3=27),
    plan(tome1=50, tome3=30),
]


@pytest.mark.parametrize("cache_bytes", [0, 2_000_000, 500_000_000])
def test_scores_are_those_of_the_whole_model_whatever_is_kept(model, images, cache_bytes):
    labels = np.arange(24) % 7
    e = Evaluator(model, images, labels, chunk=10, cache_bytes=cache_bytes)
    assert e.facts.tokens == 65 and e.chunks == 3 and e.images(range(3)) == 24
    for steps in PLANS + PLANS:
        kl, agree, top = direct(model, images, steps)
        found = e.score(steps)
        np.testing.assert_allclose(found.distance, kl, atol=1e-6, rtol=1e-3)
        assert ((found.changed == 0) == agree).all() and (found.right == (top == labels)).all()
    assert e._room >= 0 or not e._recent
    assert found.distance.mean() > 1e-5, "the model is too insensitive for these tests to mean anything"


def test_nothing_reduced_is_nothing_lost(model, images):
    score = Evaluator(model, images).score(())
    assert score.distance.max() == 0 and not score.changed.any() and score.right is None


def test_chunks_are_run_once_and_joined_in_order(model, images, monkeypatch):
    e = Evaluator(model, images, chunk=8)
    ran, run = [], Evaluator._run
    monkeypatch.setattr(
        Evaluator, "_run", lambda s, steps, chunks: (ran.append(list(chunks)), run(s, steps, chunks))[1]
    )
    part, whole = e.score(PLANS[1], [1]), e.score(PLANS[1])
    assert ran == [[1], [0, 2]]
    assert (whole.distance[8:16] == part.distance).all() and len(e.score(PLANS[1]).distance) == 24 and len(ran) == 2


def test_a_slow_dense_pass_is_cut_short_after_two_chunks(model, images):
    labels = np.arange(24) % 7
    e = Evaluator(model, images, labels, chunk=6, seconds=0.0)
    assert e.chunks == 2 and len(e.score(PLANS[0]).distance) == len(e.dense_right()) == 12
    np.testing.assert_allclose(
        e.score(PLANS[0]).distance, direct(model, images[:12], PLANS[0])[0], atol=1e-6, rtol=1e-3
    )


def test_shared_first_steps_are_not_run_again(model, images, monkeypatch):
    e = Evaluator(model, images, chunk=24)
    e.score(plan(topk1=50, tome3=30))
    starts, start = [], Evaluator._start
    monkeypatch.setattr(Evaluator, "_start", lambda s, *a: (starts.append(start(s, *a)), starts[-1])[1])
    e.score(plan(topk1=50, tome3=27))
    e.score(plan(topk1=40, tome3=27))
    assert [(done, block) for done, block, _ in starts] == [(1, 2), (0, 1)]


def test_bf16_compares_like_with_like(model, images):
    full, half = Evaluator(model, images), Evaluator(model, images, bf16=True)
    assert half.score(()).distance.max() == 0
    a, b = (e.score(plan(tome1=34)).distance.mean() for e in (full, half))
    assert b == pytest.approx(a, rel=0.3)


def test_candidates_are_a_front_of_unseen_losses(model, images, table):
    labels = np.arange(24) % 7
    shares = []
    found = plan_candidates(
        model, images, labels, table, methods=("tome", "topk"), speedup=1.3, evaluations=16,
        progress=lambda share, text: shares.append(share),
    )  # fmt: skip
    assert found == plan_candidates(model, images, labels, table, methods=("tome", "topk"), speedup=1.3, evaluations=16)
    assert all(b.predicted_ms > a.predicted_ms and b.search_loss < a.search_loss for a, b in itertools.pairwise(found))
    dense = 2.0 + 6 * 65
    assert any(c.predicted_ms <= dense / 1.3 for c in found)
    # What is reported is of the kept-back part of the same shuffle.
    order = np.random.default_rng(0).permutation(24)
    unseen = images[order][-found[0].images :]
    for c in found[:4]:
        kl, agree, _ = direct(model, unseen, c.steps)
        assert c.loss == pytest.approx(kl.mean(), rel=1e-3, abs=1e-6) and c.agreement == agree.mean()
        assert c.loss_low <= c.loss <= c.loss_high and 0 < c.macs_ratio < 1 and c.drop is not None
        assert c.speedup == pytest.approx(dense / c.predicted_ms)
        adapt(model, c.steps)  # builds, and lands on its counts
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_the_search_is_no_worse_than_one_cut(model, images, table):
    found = plan_candidates(model, images, None, table, methods=("tome",), latency_ms=300.0, evaluations=25)
    one = Evaluator(model, images[np.random.default_rng(0).permutation(24)], chunk=6)
    block = 6 // 4
    for n in default_counts(table, 65, 1):
        steps = plan(**{f"tome{block}": n})
        if n < 34 or (ms := table.predict(Schedule.cut(65, 6, {block: n}), {block: "tome"})) > 300:
            continue
        loss = one.score(steps, range(2)).distance.mean()
        assert min(c.search_loss for c in found if c.predicted_ms <= 300) <= loss * 1.2 + 1e-9, (n, ms)
    assert all(c.drop is None for c in found)


def test_default_counts_avoid_slow_ones():
    n = list(range(3, 198))
    stairs = Curve(tokens=n, ms=[float(-(-x // 64)) for x in n])
    t = LatencyTable(fixed_ms=0, block=stairs, attention=stairs)
    counts = default_counts(t, 197, 1)
    assert {64, 128, 192} <= set(counts) and counts[0] == 3 and counts[-1] < 197
    hump = Curve(tokens=n, ms=[9.0 if 100 <= x <= 120 else x / 100 for x in n])
    assert not set(range(100, 121)) & set(default_counts(LatencyTable(fixed_ms=0, block=hump, attention=hump), 197, 1))


def test_bad_arguments_are_named(model, images, table):
    for kwargs, what in [
        ({"methods": ["tomee"]}, "tomee"),
        ({"max_drop": 1.0, "speedup": 2.0}, "one budget"),
        ({"methods": ["tome"], "counts": [3]}, "reaches"),
    ]:
        with pytest.raises(InputError, match=what):
            plan_candidates(model, images, None, table, **kwargs)
    with pytest.raises(InputError, match="8 images"):
        plan_candidates(model, images[:3], None, table)


def test_counts_that_only_some_methods_reach_are_planned_with(model, images, table):
    found = plan_candidates(
        model, images, None, table, methods=("tome", "topk"), counts=(3, 20), blocks=(3, 5), evaluations=6
    )
    assert found and {(s.method, s.tokens) for c in found for s in c.steps} <= {("topk", 3), ("topk", 20)}


def test_a_budget_of_no_time_still_plans(model, images, table):
    assert plan_candidates(model, images, None, table, methods=("tome",), budget_seconds=0.01)


def test_pomts_planner_is_its_utility_over_real_answers(model, images, table):
    """Worked out again by hand: the count with the best utility, alone in block 1/4, landed on exactly."""
    images, labels = images[:12], np.arange(12) % 7
    ms, right = {}, {}
    for n in (*default_counts(table, 65, 1), 65):
        steps = () if n == 65 else (Step(block=1, method="pomt", tokens=n),)
        ms[n] = table.predict(Schedule.cut(65, 6, {1: n}), {1: "pomt"})
        right[n] = float((direct(model, images, steps)[2] == labels).mean())
    for alpha in (0.2, 0.8):
        found = plan_pomt(model, images, labels, table, alpha=alpha)
        utility = {n: (-alpha * ms[n], right[n]) for n in ms}
        slowest, best = max(-u / alpha for u, _ in utility.values()), max(a for _, a in utility.values())
        score = {n: u / slowest + (1 - alpha) * a / best for n, (u, a) in utility.items()}
        wanted = max(score, key=lambda n: (round(score[n], 9), n))
        assert [s.tokens for c in found for s in c.steps] == ([] if wanted == 65 else [wanted])
    with pytest.raises(InputError, match="tome, topk"):
        plan_pomt(model, images, labels, table, methods=["tome", "topk"])


@pytest.fixture(scope="module")
def deciding(model):
    return from_vit(model, transitions=(1, 3)).eval()


def test_a_model_that_decides_by_itself_is_planned_by_its_own_decisions(deciding, images, table):
    found = plan_candidates(deciding, images, None, table, wide=True, evaluations=12)
    assert found and {s.block for c in found for s in c.steps} <= {1, 3}
    assert {s.method for c in found for s in c.steps} == {"topk"}
    best = min(found, key=lambda c: c.loss)
    order = np.random.default_rng(0).permutation(len(images))[-best.images :]
    assert best.loss == pytest.approx(float(direct(deciding, images[order], best.steps)[0].mean()), rel=1e-4)
    with pytest.raises(InputError, match="this IRET decides by itself which tokens go; allowed: topk, not tome"):
        plan_candidates(deciding, images, None, table, methods=["tome"])


def test_a_wide_search_looks_over_the_whole_range(model, images, table):
    few = {"methods": ["tome", "topk"], "evaluations": 30}
    wide = [c.speedup for c in plan_candidates(model, images, None, table, wide=True, **few)]
    near = [c.speedup for c in plan_candidates(model, images, None, table, speedup=1.1, **few)]
    assert max(wide) > 1.5 and np.std(wide) > np.std(near)


@pytest.mark.parametrize("kind", ["embedding", "masks"])
def test_other_kinds_of_output_are_planned_by_their_judges(kind, images, table):
    name = {"embedding": "vit_tiny_patch16_224", "masks": "segmenter_vit_tiny_patch16_512"}[kind]
    torch.manual_seed(0)
    other = timm.create_model(
        name, img_size=64, patch_size=8, embed_dim=32, depth=6, num_heads=2, num_classes=3 if kind == "masks" else 0
    )
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.08 * torch.randn_like(p))
    other.eval()
    found = plan_candidates(
        other, images, None, table, methods=("tome",), counts=(40, 50), blocks=(2, 3), evaluations=4
    )
    assert found and all(c.loss > 0 and c.search_loss > 0 and 0 <= c.agreement <= 1 and c.drop is None for c in found)
    best, unseen = found[-1], images[np.random.default_rng(0).permutation(24)][-found[-1].images :]
    with torch.inference_mode():
        dense, reduced = (m(torch.from_numpy(unseen)).numpy() for m in (other, adapt(other, best.steps)))
    if kind == "masks":
        assert best.loss == pytest.approx(make_judge(kind, dense).distance(reduced).mean(), rel=0.1)  # of some pixels
    else:
        assert best.loss == pytest.approx(make_judge(kind, dense).distance(reduced).mean(), rel=1e-4)


# Every kind of output.


@pytest.fixture(scope="module")
def few_images():
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(16, 3, 8, 8)).repeat(8, axis=2).repeat(8, axis=3)
    return (coarse + 0.3 * rng.normal(size=(16, 3, 64, 64))).astype(np.float32)


SMALL = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 3, "num_heads": 2}
MODELS = {
    "embedding": ("vit_tiny_patch16_224", {"num_classes": 0}),
    "classes": ("vit_tiny_patch16_224", {"num_classes": 1}),
    "masks": ("segmenter_vit_tiny_patch16_512", {"num_classes": 3}),
}


@pytest.mark.parametrize("kind", MODELS)
def test_an_evaluator_asks_the_judge_of_the_models_outputs(kind, few_images):
    name, options = MODELS[kind]
    model = randomised(timm.create_model(name, **SMALL, **options)).eval()
    labels = (np.arange(16) % 2) if kind != "masks" else np.random.default_rng(0).integers(0, 3, (16, 64, 64), np.uint8)
    e = Evaluator(model, few_images, labels, chunk=4)
    assert e.outputs == kind and isinstance(e.judge, JUDGES[kind])
    whole, cut = e.score(()), e.score([Step(block=1, method="topk", tokens=5)])
    assert whole.distance.max() == 0 and whole.changed.max() == 0 and (whole.right == e.dense_right()).all()
    assert cut.distance.shape == (16,) and cut.distance.mean() > 0 and cut.changed.max() <= 1
    assert Evaluator(model, few_images, chunk=4).dense_right() is None
    if kind == "masks":  # a few pixels of each patch stand for all
        with torch.inference_mode():
            given = model(torch.from_numpy(few_images)).numpy()
        assert e.judge.reference.shape == (16, 3, 8, 8) and e.judge.reference.dtype == np.float32
        np.testing.assert_allclose(e.dense_right().mean(), Masks(given, labels).right(given).mean(), atol=0.1)


def test_an_embedding_that_is_taken_for_logits_is_judged_as_these(few_images):
    model = randomised(timm.create_model("vit_tiny_patch16_224", **SMALL, num_classes=0)).eval()
    assert isinstance(Evaluator(model, few_images, outputs="classes", chunk=4).judge, Classes)


class Known:
    """An evaluator that knows what each plan lost and changed, on a thousand images."""

    def __init__(self, costs, labelled=True):
        self.costs, self.labelled = costs, labelled

    def dense_right(self, chunks):
        return np.ones(1000) if self.labelled else None

    def images(self, chunks):
        return 1000

    def score(self, steps, chunks):
        lost, changed = self.costs[steps[0].tokens]
        share = lambda x: (np.arange(1000) < round(1000 * x)).astype(float)
        return Score(np.zeros(1000), share(changed), 1 - share(lost) if self.labelled else None)


def expectations(losses, lost, changed, labelled=True):
    archive = Archive()
    for i, loss in enumerate(losses):
        steps = (Step(block=0, method="tome", tokens=10 + i),)
        archive.scored[key_of(steps)] = Scored(steps, 1.0, loss)
    costs = {10 + i: (lost[i], changed[i]) for i in range(len(losses))}
    return Goal(Known(costs, labelled), [0], 2.0, cap=None, drop=1.0).expected_drops(archive)


def test_points_expected_grow_with_the_loss_at_the_rate_of_plans_about_as_lossy():
    losses = [0.001, 0.01, 0.1, 1.0]
    rates = [0.6, 0.6, 0.2, 0.2]  # of the answers a nat: where much is lost already, more costs less
    expected = expectations(losses, [r * x for r, x in zip(rates, losses, strict=True)], [0.0] * 4)
    assert expected(0.003) == pytest.approx(0.2, abs=0.07) and expected(1.0) == pytest.approx(20, rel=0.2)
    assert expected(0.0) == 0 and expected(0.001) < expected(0.01) < expected(0.1)


def test_answers_that_changed_are_not_all_taken_for_gained():
    spotless = expectations([0.01], [-0.02], [0.05])
    assert spotless(0.01) == pytest.approx(100 * (0.1 * 0.05 + 0.0005))


def test_without_labels_they_grow_with_the_root():
    expected = expectations([0.01, 0.04], [0, 0], [0.02, 0.04], labelled=False)
    assert expected(0.01) == pytest.approx(2.0) and expected(0.16) == pytest.approx(8.0)
    assert expectations([], [], [])(0.01) == pytest.approx(10.0)


def test_of_few_tokens_counts_are_added_that_a_method_reaches(model, table, monkeypatch):
    """The curve of a small model on a noisy machine may leave only counts far below what a merger reaches at once."""
    f = describe(model)
    monkeypatch.setattr("foveate.planning.start.default_counts", lambda *_: (f.prefix + 2, f.prefix + 4))
    space = space_of(f, table, ["tome"], {}, None, None)
    assert any(space.allows("tome", f.tokens, c) for c in space.counts)
    assert set(space.counts) > {f.prefix + 2, f.prefix + 4}
    assert space_of(f, table, ["topk"], {}, None, None).counts == (f.prefix + 2, f.prefix + 4)
    assert space_of(f, table, ["tome"], {}, (f.prefix + 2,), None).counts == (f.prefix + 2,)  # as asked for

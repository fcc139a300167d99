"""The planners on tables small enough to try every plan."""

import itertools

import numpy as np
import pytest

from foveate.errors import InputError
from foveate.planners import (
    Archive,
    Curve,
    LatencyTable,
    ReduceCost,
    Scored,
    Sensitivity,
    Space,
    front,
    key_of,
    least_loss,
    least_ms,
    pareto,
    pomt,
    refine,
    single_cuts,
)
from foveate.planners.ladder import ladder
from foveate.planners.refine import mutate
from foveate.plans import Step
from foveate.schedule import Schedule


def curve(f, low=3, high=40, step=1):
    n = list(range(low, high + 1, step))
    return Curve(tokens=n, ms=[float(f(x)) for x in n])


def table(f=lambda n: n, share=0.4, reduce=None, start=40):
    return LatencyTable(
        fixed_ms=1.0,
        block=curve(f, high=start),
        attention=curve(lambda n: share * f(n), high=start),
        reduce=reduce or {},
    )


def sensitivity(space, rng, scale=1.0):
    """Random losses that rise as counts fall."""
    loss = {
        b: {
            m: dict(zip(reversed(space.counts), np.cumsum(rng.random(len(space.counts))) * scale, strict=True))
            for m in space.methods
        }
        for b in space.blocks
    }
    return Sensitivity(start=space.start, loss=loss)


def every_plan(space):
    """All valid plans, by trying each subset of (block, method, count)."""
    choices = [[None, *itertools.product(space.methods, space.counts)] for _ in space.blocks]
    for pick in itertools.product(*choices):
        steps = tuple(space.step(b, *p) for b, p in zip(space.blocks, pick, strict=True) if p)
        if space.valid(steps):
            yield steps


def predicted(space, t, s, steps):
    return Scored(steps, t.predict(space.schedule(steps), {x.block: x.method for x in steps}), s.total(steps))


def same_front(a, b):
    """Equal but for rounding, which also decides ties."""
    a, b = (
        [(x.ms, x.loss) for x in pareto(x._replace(ms=round(x.ms, 6), loss=round(x.loss, 6)) for x in y)]
        for y in (a, b)
    )
    return a == b


SPACE = Space(40, 5, 1, (1, 2, 3), (10, 16, 20, 32), ("a", "b"), {"a": 0.5})


# --- table


def test_curve_interpolates_and_extrapolates_linearly():
    c = Curve(tokens=[10, 20, 30], ms=[1.0, 3.0, 2.0])
    assert [c(10), c(15), c(25), c(30)] == [1.0, 2.0, 2.5, 2.0]
    assert c(5) == pytest.approx(0.0) and c(40) == pytest.approx(1.0)
    assert Curve(tokens=[7], ms=[2.0])(100) == 2.0


@pytest.mark.parametrize(("tokens", "ms"), [([1, 2], [1.0]), ([2, 1], [1.0, 2.0]), ([1, 1], [1.0, 2.0]), ([], [])])
def test_curve_refuses_what_is_none(tokens, ms):
    with pytest.raises(ValueError):
        Curve(tokens=tokens, ms=ms)


def test_prediction_is_the_sum_of_its_parts():
    t = table(lambda n: n * n, reduce={"a": ReduceCost(fixed_ms=5, per_token_ms=0.1, per_pair_ms=0.01)})
    # Two blocks at 40 tokens; the second cuts to 20, the third stays there.
    s = Schedule(40, (40, 20, 20))
    expected = 1 + 1600 + (0.4 * 1600 + (5 + 4 + 16) + 0.6 * 400) + 400
    assert t.predict(s, {1: "a"}) == pytest.approx(expected)
    assert t.predict(Schedule.full(40, 3), {}) == pytest.approx(1 + 3 * 1600)


def test_unmeasured_method_costs_as_much_as_the_dearest():
    t = table(reduce={"a": ReduceCost(fixed_ms=1), "b": ReduceCost(per_token_ms=0.1)})
    assert t.reduce_ms("c", 40, 20) == 4.0 and t.reduce_ms("c", 5, 4) == 1.0
    assert t.reduce_ms("a", 20, 20) == 0.0
    assert table().reduce_ms("a", 40, 20) == 0.0


def test_right_edges_of_a_staircase_are_the_last_fast_counts():
    t = table(lambda n: -(-n // 16))
    assert t.right_edges(3, 40) == [16, 32, 40]


def test_right_edges_skip_a_hump():
    # 21..24 are slower than 25..40: nobody should land there, though 20 and 40 are fine.
    t = table(lambda n: 9 if 21 <= n <= 24 else 5 if n > 20 else 3)
    assert t.right_edges(10, 40) == [20, 40]


def test_right_edges_always_hold_the_start():
    assert table(lambda n: 1).right_edges(3, 40) == [40]
    assert table(lambda n: 100 - n).right_edges(3, 40) == [40]


# --- pomt


def test_utility_by_hand():
    u = pomt.utility([2.0, 4.0], [40.0, 80.0], alpha=0.25)
    assert u == pytest.approx([0.25 * 0.5 + 0.75 * 0.5, 0.75])


@pytest.mark.parametrize("cliff", [64, 96, 128])
def test_pomt_lands_on_the_fast_side_of_a_cliff(cliff):
    grid = list(range(196, 1, -1))
    latency = [2.0 if n > cliff else 1.0 for n in grid]
    accuracy = [80 - (196 - n) * 0.01 for n in grid]
    assert pomt.choose(grid, latency, accuracy) == cliff
    (step,) = pomt.plan(grid, latency, accuracy, start=197, depth=12)
    # The published code leaves two more, which is past the cliff.
    assert step.block == 3
    assert Schedule.cut(197, 12, {step.block: step.tokens}).after[-1] == cliff


def test_pomt_leaves_a_flat_curve_alone_and_alpha_is_its_greed():
    grid = [197, 150, 100, 50]
    assert pomt.plan(grid, [1.0] * 4, [80, 79, 70, 50], start=197, depth=12) == ()
    chosen = [pomt.choose(grid, [4.0, 3.0, 2.0, 1.0], [80, 79, 70, 40], alpha=a) for a in (0.0, 0.3, 0.5, 0.7, 1.0)]
    assert chosen == sorted(chosen, reverse=True) and chosen[0] == 197 and chosen[-1] == 50


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_pomt_refuses_a_wild_alpha(alpha):
    with pytest.raises(InputError, match="alpha"):
        pomt.utility([1.0], [1.0], alpha=alpha)


# --- pareto


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "f", [lambda n: n, lambda n: -(-n // 16) * 16, lambda n: 60 if 17 <= n <= 20 else n], ids=["line", "stairs", "hump"]
)
def test_front_equals_brute_force(seed, f):
    rng = np.random.default_rng(seed)
    t = table(f, reduce={"a": ReduceCost(fixed_ms=rng.random()), "b": ReduceCost(per_token_ms=0.1 * rng.random())})
    s = sensitivity(SPACE, rng)
    best = pareto(predicted(SPACE, t, s, p) for p in every_plan(SPACE))
    found = front(SPACE, t, s)
    assert same_front(found, best)
    for x in found:
        assert SPACE.valid(x.steps)
        assert predicted(SPACE, t, s, x.steps)[1:] == pytest.approx(x[1:])


def test_thinned_front_stays_close_and_keeps_its_ends():
    rng = np.random.default_rng(0)
    space = Space(40, 6, 1, (1, 2, 3, 4), tuple(range(6, 40, 3)), ("a",))
    t, s = table(lambda n: n + 0.01 * n * n), sensitivity(space, rng)
    exact, thin = front(space, t, s), front(space, t, s, labels=64)
    assert thin[0].ms == pytest.approx(exact[0].ms) and thin[-1].loss == exact[-1].loss == 0
    for x in exact:
        slack = (exact[-1].ms - exact[0].ms) / 16
        assert least_loss(thin, ms=x.ms + slack).loss <= x.loss + 1e-9


def test_number_of_steps_is_found_not_fixed():
    # Where a reduction costs a lot, one is best; where it is free and early loss is dear, several are.
    space = Space(40, 6, 1, (1, 2, 3, 4), (8, 16, 24, 32), ("a",))
    loss = {b: {"a": {n: (40 - n) ** 2 * (5.0 - b) for n in space.counts}} for b in space.blocks}
    s = Sensitivity(start=40, loss=loss)
    free, dear = table(), table(reduce={"a": ReduceCost(fixed_ms=30)})
    assert max(len(x.steps) for x in front(space, free, s)) >= 3
    assert max(len(x.steps) for x in front(space, dear, s)) == 1
    # And where reducing can never pay, nothing is left but the dense model.
    never = table(reduce={"a": ReduceCost(fixed_ms=1000)})
    assert [x.steps for x in front(space, never, s)] == [()]


def test_budgets_both_ways_and_unmeetable_ones():
    rng = np.random.default_rng(1)
    t, s = table(), sensitivity(SPACE, rng)
    plans = [predicted(SPACE, t, s, p) for p in every_plan(SPACE)]
    found = front(SPACE, t, s)
    for x in found:
        assert least_loss(found, ms=x.ms).loss == pytest.approx(min(p.loss for p in plans if p.ms <= x.ms + 1e-9))
        assert least_ms(found, loss=x.loss).ms == pytest.approx(min(p.ms for p in plans if p.loss <= x.loss + 1e-9))
    with pytest.raises(InputError, match="fastest"):
        least_loss(found, ms=0.01)
    with pytest.raises(InputError, match="least"):
        least_ms([x for x in found if x.loss > 0], loss=0.0)


def test_single_cuts_are_pomts_and_never_beat_the_front():
    rng = np.random.default_rng(2)
    space = Space(40, 12, 1, tuple(range(2, 11)), (10, 16, 20, 32), ("a", "b"), {"a": 0.5})
    t, s = table(lambda n: -(-n // 16)), sensitivity(space, rng)
    singles, found = single_cuts(space, t, s), front(space, t, s)
    assert {x.steps[0].block for x in singles} == {3} and all(len(x.steps) == 1 for x in singles)
    assert {(x.steps[0].method, x.steps[0].tokens) for x in singles} == {
        (m, n) for m in "ab" for n in space.counts if m == "b" or n >= 21 or 40 - n <= 19
    }
    for x in singles:
        assert least_loss(found, ms=x.ms).loss <= x.loss + 1e-9


def test_sensitivity_is_a_path_sum_of_squares():
    s = Sensitivity(start=40, loss={2: {"a": {30: 1.0, 20: 4.0}}, 5: {"a": {30: 0.25, 20: 1.0}}})
    assert [s.at(2, "a", n) for n in (40, 35, 30, 25, 20, 10)] == pytest.approx([0, 0.25, 1, 2.25, 4, 9])
    steps = (Step(block=2, method="a", tokens=30), Step(block=5, method="a", tokens=20))
    assert s.total(steps) == pytest.approx(1.0 + (1.0 - 0.25))
    dented = Sensitivity(start=40, loss={0: {"a": {30: 1.0, 20: 0.5}}})
    assert dented.at(0, "a", 20) == 1.0  # fewer tokens never lose less


def test_space_refuses_counts_nobody_can_land_on():
    with pytest.raises(InputError, match="counts"):
        Space(40, 5, 1, (1,), (2,), ("a",))
    with pytest.raises(InputError, match="at least one"):
        Space(40, 5, 1, (), (10,), ("a",))
    assert SPACE.allows("a", 40, 21) and not SPACE.allows("a", 40, 20) and SPACE.allows("b", 40, 3)
    assert not SPACE.valid((SPACE.step(2, "b", 20), SPACE.step(1, "b", 10)))
    assert not SPACE.valid((SPACE.step(0, "b", 20),))


# --- ladder


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("share", [0.9, 0.7, 0.5])
def test_ladder_fills_its_budget_and_cuts_the_last_block_to_the_least(every, share):
    space = Space(197, 12, 1, tuple(range(2, 12)), tuple(range(3, 197)), ("a", "b"), {"a": 0.5})
    t = table(lambda n: n, start=197)
    cap = share * t.predict(Schedule.full(197, 12), {})
    steps = ladder(space, t, "a", ms=cap, every=every)
    assert space.valid(steps) and 0.98 * cap <= predicted(space, t, _none(space), steps).ms <= cap
    assert steps[-1] == space.step(11, "b", 3)
    ratios = [b.tokens / a.tokens for a, b in itertools.pairwise(steps[:-1])]
    assert max(ratios) - min(ratios) < 0.06 and {s.block for s in steps[:-1]} == set(range(2, 11)[::every])


def test_ladder_gives_up_on_an_impossible_budget():
    assert ladder(SPACE, table(), "a", ms=0.5) == ()


def _none(space):
    return Sensitivity(start=space.start, loss={b: {m: {3: 0.0} for m in space.methods} for b in space.blocks})


# --- refine


def interacting(space, s):
    """Losses with what the additive model lacks: neighbouring steps disturb each other."""

    def score(steps):
        close = sum(b.block - a.block == 1 for a, b in itertools.pairwise(steps))
        return s.total(steps) * (1 + close) + 0.001

    return score


def test_refine_reaches_the_true_front_where_additivity_fails():
    rng = np.random.default_rng(3)
    t, s = table(), sensitivity(SPACE, rng)
    score = interacting(SPACE, s)
    latency = lambda p: predicted(SPACE, t, s, p).ms
    truth = pareto(Scored(p, latency(p), score(p)) for p in every_plan(SPACE))
    start = [x.steps for x in front(SPACE, t, s)]
    found = refine(start, score=score, latency=latency, space=SPACE, evaluations=400, expect=s.total, seed=1).front()
    assert same_front(found, truth)


def test_refine_is_deterministic_resumable_and_keeps_to_its_budget():
    rng = np.random.default_rng(4)
    t, s = table(), sensitivity(SPACE, rng)
    calls = []
    base = interacting(SPACE, s)

    def score(steps):
        calls.append(key_of(steps))
        return base(steps)

    kwargs = {"score": score, "latency": lambda p: predicted(SPACE, t, s, p).ms, "space": SPACE, "seed": 7}
    one = refine([()], evaluations=25, **kwargs)
    assert len(calls) == len(set(calls)) == 25
    assert list(refine([()], evaluations=25, **kwargs).scored) == list(one.scored)
    calls.clear()
    best = {x.ms: x.loss for x in one.front()}
    more = refine([()], evaluations=10, archive=one, **kwargs)
    assert more is one and len(calls) == 10 and len(one.scored) == 35
    assert all(one.bar(ms).loss <= loss for ms, loss in best.items())
    with pytest.raises(ValueError, match="budget"):
        refine([()], **kwargs)
    assert len(refine([()], seconds=0.0, **kwargs).scored) == 0


def test_refine_searches_within_the_band_and_asks_the_quick_score_first():
    rng = np.random.default_rng(5)
    t, s = table(), sensitivity(SPACE, rng)
    full = []

    def score(steps):
        full.append(steps)
        return s.total(steps)

    latency = lambda p: predicted(SPACE, t, s, p).ms
    mid = latency((SPACE.step(2, "b", 16),))
    archive = refine(
        [(SPACE.step(2, "b", 16),)],
        score=score, latency=latency, space=SPACE, low=0.9 * mid, high=mid, evaluations=30, quick=s.total, seed=2,
    )  # fmt: skip
    assert all(0.9 * mid <= latency(p) <= mid for p in full)
    assert archive.refused and not archive.refused & set(archive.scored)


def test_mutations_are_valid_and_reach_every_plan():
    rng = np.random.default_rng(6)
    seen, steps = set(), ()
    for _ in range(6000):
        steps = mutate(steps, SPACE, rng)
        assert SPACE.valid(steps)
        seen.add(key_of(steps))
    assert seen == {key_of(p) for p in every_plan(SPACE)}
    assert Archive().front() == []

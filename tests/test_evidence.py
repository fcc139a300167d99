"""A budget is shown only where the photographs can show it, and the interval holds the truth as often as it says."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.gate_table import ends
from benchmarks.table import DOCS, RESULTS
from foveate.errors import InputError
from foveate.evaluate import evidence
from foveate.evaluate.evidence import Answers, beside, judge_budget, likely_kept, photographs_needed

ORDER = ("shown", "observed", "broken")


def counted(n: int, changed: float = 0, lost: float | None = 0, distance: float = 0.01) -> Answers:
    """`changed` and `lost` answers among n, each photograph at the same distance."""
    first = lambda k: np.clip(k - np.arange(n), 0.0, 1.0)
    return Answers(np.full(n, distance), first(changed), None if lost is None else first(lost))


def world(n: int, strengths: np.ndarray, rng: np.random.Generator) -> list[Answers]:
    """Plans that perturb the same n photographs: changes grow with the strength, losses with its square."""
    tie, luck = rng.random((2, n))
    size = rng.gamma(4.0, 0.25, n)
    plans = []
    for strength in strengths:
        changed = (tie < 0.3 * strength * size).astype(float)
        # Of those changed a share that grows with the strength is lost, net of what is gained.
        net = np.where(luck < 0.3 + strength, 1.0, np.where(luck > 0.7, -1.0, 0.0))
        plans.append(Answers((strength * size) ** 2, changed, changed * net))
    return plans


STRENGTHS = np.array([0.06, 0.08, 0.11, 0.15, 0.2])


def covered(draws: int) -> tuple[float, np.ndarray]:
    """(share of 95 % intervals that hold the truth, the truth in points), over fits on 500 photographs."""
    rng = np.random.default_rng(0)
    truth = np.array([100 * p.lost.mean() for p in world(100_000, STRENGTHS, rng) if p.lost is not None])
    held = []
    for _ in range(draws):
        search, unseen = world(300, STRENGTHS, rng), world(200, STRENGTHS, rng)
        for i, points in enumerate(truth):
            k = judge_budget(1.0, unseen[i], search[i], search[:i] + search[i + 1 :])
            held.append(k.low <= points <= k.high)
    return float(np.mean(held)), truth


def test_the_interval_holds_the_truth_as_often_as_it_says():
    share, truth = covered(80)
    assert truth[0] < 1 < truth[-1]
    assert share >= 0.93


def test_an_interval_that_trusts_too_much_is_found_out(monkeypatch):
    monkeypatch.setattr(evidence, "_Z", 0.8)
    share, _ = covered(60)
    assert share < 0.9


def test_the_rule_of_three():
    assert [photographs_needed(p) for p in (1.0, 0.5, 2.0)] == [299, 598, 149]
    assert photographs_needed(0) is None and photographs_needed(None) is None and photographs_needed(100) is None
    needed = photographs_needed(1.0)
    assert needed is not None
    assert judge_budget(1.0, counted(needed)).outcome == "shown"
    short = judge_budget(1.0, counted(needed - 1))
    assert short.outcome == "observed" and short.high > 1


@pytest.mark.parametrize("labelled", [True, False])
def test_never_shown_below_what_is_needed_however_good_the_others(labelled):
    lost = 0 if labelled else None
    pool = [counted(5000, lost=lost, distance=d) for d in (0.01, 0.02)]
    assert judge_budget(1.0, counted(298, lost=lost), pool[0], pool[1:]).outcome == "observed"


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("fraction", [1.0, 0.25])
def test_more_lost_is_never_judged_better(labelled, fraction):
    """Whole answers or parts of them; the outcome and the estimate only get worse."""
    pool = [counted(300, 6, 3, distance=0.01), counted(300, 12, 7, distance=0.03)]
    found = []
    for k in range(40):
        bad = fraction * k
        found.append(judge_budget(2.0, counted(400, bad, bad if labelled else None), pool[0], pool[1:]))
    assert [ORDER.index(f.outcome) for f in found] == sorted(ORDER.index(f.outcome) for f in found)
    assert np.all(np.diff([f.estimate for f in found]) >= 0)
    assert found[-1].outcome == ("broken" if fraction == 1 else found[-1].outcome)


def test_hopeless_is_broken_even_where_the_distance_foretells_nothing():
    pool = [counted(300, 3, 1)]
    assert judge_budget(1.0, counted(100, 30, 30), pool[0]).outcome == "broken"
    assert judge_budget(1.0, counted(100, 30, None), pool[0]).outcome == "broken"
    assert judge_budget(1.0, counted(24, 8, 8)).outcome == "broken"


def test_what_is_plainly_counted_beyond_the_budget_is_never_shown():
    pool = [counted(20_000, 40, 20)] * 3  # a tenth of a point, surely
    k = judge_budget(1.0, counted(400, 6, 6), pool[0], pool[1:])
    assert k.estimate < 1 and k.outcome != "shown"


def test_other_plans_tell_a_light_plan_from_a_heavy_one():
    """Neither changes anything on 80 photographs; at the rate of the others one is far beyond the budget."""
    pool = [counted(120, 6, 3, distance=0.03), counted(120, 8, 4, distance=0.04)]
    light, heavy = (judge_budget(1.0, counted(80, distance=d), pool[0], pool[1:]) for d in (0.004, 0.1))
    assert light.estimate < heavy.estimate
    assert (light.outcome, heavy.outcome) == ("observed", "broken")


def test_without_labels_changed_answers_are_what_counts():
    both = [counted(300, 6, 1, distance=d) for d in (0.01, 0.02)]
    bare = [dataclasses.replace(a, lost=None) for a in both]
    unseen = counted(200, 4, None)
    assert judge_budget(1.0, unseen, both[0], both[1:]) == judge_budget(1.0, unseen, bare[0], bare[1:])
    assert judge_budget(3.0, unseen, bare[0]).estimate == pytest.approx(2, abs=0.2)
    assert "changed" in judge_budget(3.0, unseen).said


def test_half_an_answer_counts_half():
    whole, half = (judge_budget(None, counted(100, k, k)) for k in (2.0, 1.0))
    parts = judge_budget(None, Answers(np.full(100, 0.01), np.full(100, 0.01), np.full(100, 0.01)))
    assert whole.estimate == 2 * half.estimate == pytest.approx(2 * parts.estimate)
    assert parts.high < half.high  # evenly spread, so better known


def test_no_cap_and_a_budget_of_nothing():
    assert judge_budget(None, counted(1000, 50, 50)).outcome == "observed"
    assert "nothing was capped" in judge_budget(None, counted(1000)).said
    assert judge_budget(0, counted(1000), counted(100, 5, 5)).outcome == "observed"
    assert judge_budget(0, counted(1000, 1, 1)).outcome == "broken"


@pytest.mark.parametrize(
    "value, bound, text",
    [
        (1.04, 1, "1.04"),
        (0.996, 1, "0.996"),
        (0.6, 1, "0.6"),
        (1.0, 1, "1"),
        (0.9999, 1, "0.9999"),
        (2.345, None, "2.3"),
    ],
)
def test_no_figure_is_rounded_across_its_bound(value, bound, text):
    assert beside(value, bound) == text


def test_the_sentence_holds_figures_and_photographs():
    k = judge_budget(1.0, counted(400), counted(100, 1, 1))
    assert f"{k.n} photographs" in k.said and beside(k.high, 1.0) in k.said and "of at most 1" in k.said


def test_what_cannot_be_judged_is_refused():
    zeros = np.zeros(3)
    with pytest.raises(InputError, match="lost of shape"):
        Answers(zeros, zeros, np.zeros(2))
    with pytest.raises(InputError, match=r"changed from 0\.0 to 2\.0"):
        Answers(zeros, np.array([0.0, 1.0, 2.0]))
    with pytest.raises(InputError, match="at least 1"):
        Answers(np.zeros(0), np.zeros(0))
    with pytest.raises(InputError, match="budget is -1"):
        judge_budget(-1, counted(10))
    with pytest.raises(InputError, match="same for all"):
        judge_budget(1, counted(10), counted(10), [counted(11)])


def test_the_page_on_budgets_holds_the_measured_figures():
    page = (DOCS.parent / "budget.md").read_text(encoding="utf-8")
    rows = json.loads((RESULTS / "gate.json").read_text(encoding="utf-8"))["rows"]
    for plan in ("topk 0.92", "tome 0.88", "tome 0.762", "topk 0.8"):
        found = [rows[f"nips labels {count} budget 1"]["plans"][plan] for count in (60, 100, 200, 500)]
        cells = [f"{found[0]['lost']:.2f}", *(ends(r).partition(" (")[0] for r in found)]
        assert f"| {' | '.join(cells)} |" in page
    shown, beyond = (sum(r[k] for r in rows.values()) for k in ("shown", "shown_beyond"))
    assert f"{beyond} of {shown:,}" in page and beyond <= 0.025 * shown


# The odds of a plan that is not built yet.
def odds(expected=0.5, distance=0.01, unseen=400, tried=(), labelled=True, points=1.0):
    return likely_kept(points, distance=distance, expected=expected, unseen=unseen, tried=tried, labelled=labelled)


def tried(points, distance=0.01, n=600):
    lost = (np.arange(n) < round(points * n / 100)).astype(float)
    return Answers(np.full(n, distance), lost, lost)


def test_the_odds_fall_with_what_is_expected_and_rise_with_budget_and_photographs():
    assert odds(0.0) == pytest.approx(1.0) and odds(0.2) > odds(0.5) > odds(1.0) > odds(3.0)
    assert odds(points=2.0) > odds() and odds(unseen=4000) > odds(unseen=400) > odds(unseen=40)


def test_the_odds_are_those_of_the_plans_tried():
    dear, cheap = [tried(4.0)] * 3, [tried(0.0)] * 3
    assert odds(tried=dear) < odds() < odds(tried=cheap)
    assert odds(distance=0.001, tried=dear) > odds(tried=dear)
    few = [tried(0.0, n=60)]  # one more right answer among so few says little, and must not be taken for much
    assert odds(3.0, tried=few) < 0.3 < odds(3.0, tried=[tried(0.0, n=60_000)] * 3)
    # Rates, not points: plans that moved ten times as far and lost ten times as much say the same of this one.
    far = odds(expected=0.4, tried=[tried(4.0, distance=0.1)])
    assert far == pytest.approx(odds(expected=0.4, tried=[tried(0.4, distance=0.01, n=6000)]), abs=0.15)


def test_without_labels_the_odds_go_by_the_root_of_the_distance():
    [made] = [dataclasses.replace(tried(2.0, distance=0.04), lost=None)]
    near, far = (odds(0.5, d, tried=[made], labelled=False) for d in (0.01, 0.16))
    assert near > far


# What a nat costs is known about beforehand.
def moved(nats, lost=0.0, n=60, known=True):
    answers = (np.arange(n) < round(lost * n)).astype(float)
    return Answers(np.full(n, nats), answers, answers, nats=known)


def test_on_few_photographs_a_plan_that_hardly_moves_the_outputs_is_kept():
    """Others lost four of sixty photographs: by their counts alone, forty cannot tell this one from them."""
    of = lambda known: judge_budget(
        1.0, moved(0.001, n=40, known=known), search=moved(0.001, known=known),
        pool=[moved(0.003, lost=3 / 60, known=known), moved(0.002, lost=1 / 60, known=known)],
    )  # fmt: skip
    assert of(True).outcome == "observed" and of(False).outcome == "broken"


def test_many_photographs_outweigh_what_is_known_beforehand():
    dear = [moved(0.01, lost=0.05, n=20_000)] * 3  # five points a hundredth of a nat: five times what is usual
    cheap = [moved(0.01, lost=0.0, n=20_000)] * 3
    of = lambda pool: judge_budget(1.0, moved(0.01, n=40), search=pool[0], pool=pool).estimate
    assert of(dear) > 1 > 0.2 > of(cheap) >= 0


def test_what_is_known_is_of_classifiers_with_labels_alone():
    unlabelled = dataclasses.replace(moved(0.01), lost=None)
    assert judge_budget(5.0, unlabelled) == judge_budget(5.0, dataclasses.replace(unlabelled, nats=False))
    one = 1 / 60
    assert judge_budget(5.0, moved(0.01, one)) != judge_budget(5.0, moved(0.01, one, known=False))


@pytest.mark.parametrize(
    ("kind", "labelled", "named"),
    [
        ("masks", True, "points of pixel accuracy lost"), ("masks", False, "% of pixels changed"),
        ("classes", True, "points lost"), ("classes", False, "% of answers changed"),
        ("embedding", False, "% of neighbours changed"),
    ],
)  # fmt: skip
def test_the_sentence_names_what_is_counted(kind, labelled, named):
    from foveate.evaluate.judges import JUDGES
    from foveate.fitting.case import answers_of

    shape = {"masks": (30, 3, 4, 4), "classes": (30, 3), "embedding": (30, 8)}[kind]
    outputs = np.random.default_rng(0).standard_normal(shape)
    labels = np.zeros((30, 4, 4) if kind == "masks" else 30, dtype=np.uint8 if kind == "masks" else int)
    judge = JUDGES[kind](outputs, labels if labelled else None)
    assert f" {named}, " in judge_budget(1.0, answers_of(judge, outputs + 1e-3)).said

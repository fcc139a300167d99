"""One knob: a frontier is what was measured, in order, and a policy chooses from it by what the moment asks for."""

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from foveate.elastic import Battery, Confident, Deadline, Demand, Fixed, Frontier, Point, Power
from foveate.elastic.frontier import Figure
from foveate.errors import InputError
from foveate.evaluate import JUDGES
from foveate.plans import Step
from foveate.target import Target


def point(ms, quality, mj=None, steps=1):
    made = (Step(block=3, method="tome", tokens=100),) if steps else ()
    return Point(
        steps=made, file=f"points/{ms}/model.onnx", tokens=(197,) * 12, gmacs=1.0, latency_ms=ms, p99_ms=2 * ms,
        share=ms / 10, share_low=ms / 11, share_high=ms / 9, quality=quality, quality_low=quality - 1,
        quality_high=min(100, quality + 1), energy_mj=ms / 2 if mj is None else mj,
    )  # fmt: skip


def frontier(*points, batch=1):
    return Frontier(
        target=Target(runtime="onnxruntime", batch=batch, threads=2), figure="top-1", images=100, energy="modelled",
        energy_source="a test", points=points or (point(10, 95, steps=0), point(8, 94), point(6, 92), point(4, 85)),
    )  # fmt: skip


def test_a_frontier_comes_back_from_its_file_and_a_damaged_one_is_named(tmp_path):
    frontier().save(tmp_path)
    assert Frontier.load(tmp_path) == frontier()
    (tmp_path / "frontier.json").write_text('{"points": []}')
    with pytest.raises(InputError, match=r"frontier\.json is not a frontier: target"):
        Frontier.load(tmp_path)


def test_a_frontier_of_the_first_schema_is_read(tmp_path):
    flat = json.loads(frontier(batch=4).model_dump_json())
    flat |= {"schema_version": 1} | {k: v for k, v in flat.pop("target").items() if k != "device"}
    (tmp_path / "frontier.json").write_text(json.dumps(flat))
    assert Frontier.load(tmp_path) == frontier(batch=4)
    (tmp_path / "frontier.json").write_text(json.dumps(flat | {"batch": 0}))
    with pytest.raises(InputError, match=r"is not a frontier: target\.batch"):
        Frontier.load(tmp_path)


def test_every_kind_has_a_name_for_quality():
    for judge in JUDGES.values():
        assert {judge.words.score, judge.words.agreement} <= set(get_args(Figure))


@pytest.mark.parametrize("figure", get_args(Figure))
def test_quality_is_named_by_the_kind_of_output(figure):
    assert Frontier.model_validate(frontier().model_dump() | {"figure": figure}).figure == figure
    with pytest.raises(ValidationError, match="figure"):
        Frontier.model_validate(frontier().model_dump() | {"figure": figure + "s"})


def test_points_fall_in_latency_and_the_first_is_whole():
    with pytest.raises(ValidationError, match="not the whole model"):
        frontier(point(10, 95), point(8, 94))
    with pytest.raises(ValidationError, match="not by falling latency"):
        frontier(point(10, 95, steps=0), point(10, 94))


@pytest.mark.parametrize(("budget", "index"), [(100, 0), (10, 0), (9.9, 1), (6, 2), (4, 3)])
def test_the_best_point_within_a_budget(budget, index):
    assert frontier().within_ms(budget) == index
    assert frontier().within_mj(budget / 2) == index


def test_a_budget_nobody_meets_names_the_least():
    with pytest.raises(InputError, match=r"budget is 3.9 ms; allowed on this frontier: 4 ms or more"):
        frontier().within_ms(3.9)


def test_within_a_budget_a_faster_point_that_is_better_wins():
    assert frontier(point(10, 95, steps=0), point(8, 95.5), point(6, 92)).within_ms(20) == 1


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_knob_only_rises(a, b):
    f = frontier()
    low, high = sorted((a, b))
    assert f.points[f.at_level(low)].latency_ms <= f.points[f.at_level(high)].latency_ms
    assert (f.at_level(0), f.at_level(1)) == (3, 0)


def test_an_empty_queue_gets_the_whole_model_and_a_long_one_the_fastest():
    policy = Deadline(50, margin=0.8)
    assert policy.choose(frontier(), Demand((0.0,))) == 0
    assert policy.choose(frontier(), Demand((0.0,) * 4)) == 0  # the fourth waits for 4 x 10 = 40 ms
    assert policy.choose(frontier(), Demand((0.0,) * 5)) == 1
    assert policy.choose(frontier(), Demand((0.0,) * 50)) == 3
    assert policy.choose(frontier(), Demand((31.0,))) == 1
    assert policy.choose(frontier(), Demand((0.0,) * 4, slowdown=1.3)) == 2
    assert policy.choose(frontier(batch=4), Demand((0.0,) * 16)) == 0


@given(st.lists(st.floats(0, 100), max_size=30), st.floats(1, 3))
def test_a_deadline_that_can_be_met_is_met_and_no_better_point_would_have(waited, slowdown):
    f, waited = frontier(), sorted(waited, reverse=True)
    policy = Deadline(60)
    chosen = policy.choose(f, Demand(waited, slowdown))

    def late(i, by=1e-9):
        ms = f.points[i].latency_ms * slowdown
        return any(w + ms * (k + 1) > 60 * policy.margin * (1 + by) for k, w in enumerate(waited))

    if late(f.fastest):
        assert chosen == f.fastest
    elif late(f.fastest, -1e-9):
        return  # in time to the last digit: either is right
    else:
        assert not late(chosen)
        assert all(late(i, -1e-9) for i in range(chosen))


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_falling_battery_never_asks_for_more(a, b):
    f, policy = frontier(), Battery(0.2, 0.8)
    low, high = (f.points[policy.choose(f, Demand(charge=c))].energy_mj for c in sorted((a, b)))
    assert low <= high
    assert policy.choose(f, Demand(charge=1.0)) == 0
    assert policy.choose(f, Demand(charge=0.1)) == f.fastest


def test_power_is_energy_times_rate():
    f = frontier()  # 5, 4, 3 and 2 mJ
    assert Power(0.5).choose(f, Demand(rate=100)) == 0
    assert Power(0.35).choose(f, Demand(rate=100)) == 2
    assert Power(0.01).choose(f, Demand(rate=100)) == 3
    assert Power(0.01).choose(f, Demand(rate=0)) == 0


def test_who_is_unsure_is_asked_again_once():
    f, policy = frontier(), Confident(0.8)
    first = policy.choose(f, Demand())
    assert first == f.fastest
    assert policy.again(f, first, 0.9) is None
    assert policy.again(f, first, 0.5) == 0
    assert policy.again(f, 0, 0.5) is None
    assert Fixed(2).again(f, 2, 0.0) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Deadline(0), "slo is 0 ms; allowed: above 0"),
        (lambda: Deadline(9, margin=2), "margin is 2; allowed: above 0 to 1"),
        (lambda: Battery(0.9, 0.2), "battery from 0.9 to 0.2"),
        (lambda: Power(-1), "power is -1 W"),
        (lambda: Confident(1.5), "sure is 1.5"),
        (lambda: Battery().choose(frontier(), Demand()), "needs its charge"),
        (lambda: Power(1).choose(frontier(), Demand()), "needs the rate"),
        (lambda: Fixed(4).choose(frontier(), Demand()), "operating point is 4; allowed: 0 to 3"),
        (lambda: frontier().at_level(1.5), "level is 1.5; allowed: 0 to 1"),
    ],
)
def test_what_is_out_of_range_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()

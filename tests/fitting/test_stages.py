"""What is told of a long job while it runs."""

import pytest

from foveate.fitting import stages
from foveate.fitting.searching import Pace
from foveate.fitting.stages import StageClock, spoken


@pytest.fixture
def clock(monkeypatch):
    class Time:
        now = 0.0

        @staticmethod
        def monotonic():
            return Time.now

    monkeypatch.setattr(stages, "time", Time)
    told = []
    made = StageClock(lambda *what: told.append(what), {"load": 10.0, "plan": 20.0, "write": 30.0})
    return made, Time, told


def test_a_stage_is_told_with_its_number_and_the_time_left(clock):
    made, time, told = clock
    made.tell("load", 0.0, "weights")
    time.now = 10.0
    made.tell("plan", 0.0, "searching")
    assert told == [("1/3 load", 0.0, "weights · 60 s left"), ("2/3 plan", 0.0, "searching · 50 s left")]


def test_the_pace_so_far_corrects_what_is_left(clock):
    made, time, _ = clock
    made.tell("load", 0.0, "")
    time.now = 20.0  # twice as long as expected
    made.tell("plan", 0.0, "")
    assert made.left("plan", 0.0, 0.0) == pytest.approx(100.0)
    assert made.left("plan", 0.5, 10.0) == pytest.approx(10.0 + 60.0)


def test_a_stage_that_comes_twice_is_added_up(clock):
    made, time, _ = clock
    for stage, at in (("load", 0.0), ("plan", 1.0), ("load", 3.0), ("write", 7.0)):
        time.now = at
        made.tell(stage, 0.0, "")
    time.now = 8.0
    assert made.seconds() == {"load": 5.0, "plan": 2.0, "write": 1.0}


@pytest.mark.parametrize(("seconds", "text"), [(1, "5 s"), (42, "40 s"), (100, "2 min"), (600, "10 min")])
def test_time_is_told_as_one_says_it(seconds, text):
    assert spoken(seconds) == text


def test_a_fit_in_a_hurry_searches_in_what_is_left():
    usual = Pace.within(None, needed=40)
    assert usual == Pace()
    longer, shorter, none = (Pace.within(seconds, needed=40) for seconds in (600, 140, 20))
    assert longer.plan > usual.plan > shorter.plan > none.plan > 0
    parts = lambda pace: pace.profile + pace.plan + pace.build + pace.verify
    assert parts(shorter) == pytest.approx(100) and parts(none) < 5

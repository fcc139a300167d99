"""The dense baseline: the fastest of any runtime and precision that keeps the budget, whatever fails beside it."""

from contextlib import ExitStack
from typing import ClassVar

import pytest
from support.fits import StubBench, case

from foveate.errors import InputError, NotAvailable
from foveate.fitting import contest as contest_module
from foveate.fitting.baseline import contenders, find_baseline
from foveate.fitting.budget import Budget
from foveate.fitting.findings import dense_within
from foveate.fitting.request import Request

NAMES = ("eager fp32", "openvino fp32", "onnxruntime fp32", "onnxruntime int8", "openvino int8")
EVERY = tuple(tuple(name.split()) for name in NAMES)


class Rig(StubBench):
    """A bench in a process that one can see open and end; `dies` names the build on which the process ends."""

    speeds_by: ClassVar[dict[str, float]] = {}
    wrong_by: ClassVar[dict[str, float]] = {}
    dies: ClassVar[str | None] = None
    open: ClassVar[list[str]] = []
    made: ClassVar[list[str]] = []

    def __init__(self, model, ref, folder, target, *, calibration=None, seed=0):
        super().__init__(dict(Rig.speeds_by), dict(Rig.wrong_by), target)
        self.dead = False
        self.worker.facts = self.facts

    def facts(self):
        if self.dead:
            raise RuntimeError("the process ended")
        return {}

    def __enter__(self):
        Rig.open.append(self.target.runtime)
        return self

    def __exit__(self, *error):
        Rig.open.remove(self.target.runtime)

    def add(self, label, steps=(), **about):
        Rig.made.append(label)
        if label == Rig.dies:
            self.dead = True
            raise RuntimeError("out of memory")
        return super().add(label, steps, **about)


@pytest.fixture
def contest(monkeypatch, tmp_path):
    monkeypatch.setattr(contest_module, "Bench", Rig)
    monkeypatch.setattr(contest_module, "adapt", lambda model: model)
    monkeypatch.setattr(contest_module.time, "sleep", lambda seconds: None)

    class Model:
        def eval(self):
            return self

    def run(speeds, wrong=None, *, pairs=EVERY, dies=None, **budget):
        Rig.speeds_by = {f"dense {name}": ms for name, ms in speeds.items()}
        Rig.wrong_by = {f"dense {name}": share for name, share in (wrong or {}).items()}
        Rig.dies = None if dies is None else f"dense {dies}"
        Rig.open.clear()
        Rig.made.clear()
        whole = case()
        whole.model = Model()
        request = Request(budget=Budget(**budget), threads=1)
        with ExitStack() as stack:
            found = find_baseline(whole, request, pairs, [], tmp_path, stack, lambda share, text: None)
            found = found, list(Rig.open)
        assert not Rig.open  # every process has ended
        return found

    return run


SPEEDS = dict(zip(NAMES, (30.0, 10.0, 12.0, 11.0, 13.0), strict=True))


def test_the_fastest_sound_build_wins_and_the_beaten_end_early(contest):
    found, alive = contest(SPEEDS)
    assert found.row.name == "openvino fp32" and found.full is found.row
    assert found.runner_up.name == "onnxruntime int8" and sorted(alive) == ["onnxruntime", "openvino"]
    assert found.ms == pytest.approx(10.0, rel=0.05) and found.claim.startswith("the best dense build on this machine")
    assert {r.name for r in found.table if r.latency_ms} == set(SPEEDS)


def test_int8_stands_in_the_contest_and_may_win(contest):
    found, _ = contest(SPEEDS | {"openvino int8": 7.0})
    assert found.row.name == "openvino int8" and found.row.look is not None and found.row.kept.outcome != "broken"
    assert found.full.name == "openvino fp32" and found.full_seat is not None


def test_int8_that_breaks_the_budget_is_no_baseline_however_fast(contest):
    speeds, wrong = SPEEDS | {"openvino int8": 7.0}, {"openvino int8": 0.05}
    found, _ = contest(speeds, wrong)
    assert found.row.name == "openvino fp32"
    row = next(r for r in found.table if r.name == "openvino int8")
    assert row.reason.startswith("breaks the budget") and row.latency_ms and row.look.quality.points_lost == 5.0
    found, _ = contest(speeds, wrong, max_drop=20.0)
    assert found.row.name == "openvino int8"


def test_a_refused_build_drives_nobody_out(contest):
    """bf16 and int8, both far faster than the rest; then both are found to break the budget."""
    pairs = (("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32"), ("openvino", "int8"))
    speeds = {"openvino fp32": 22.0, "openvino bf16": 11.0, "onnxruntime fp32": 17.0, "openvino int8": 6.0}
    lossy = {"openvino int8": 0.05}
    assert contest(speeds, lossy, pairs=pairs)[0].row.name == "openvino bf16"
    found, _ = contest(speeds, lossy | {"openvino bf16": 0.05}, pairs=pairs)
    assert found.row.name == "onnxruntime fp32" and found.full is found.row


def test_a_build_that_cannot_win_is_not_weighed_until_turns_bring_it_forward(contest, monkeypatch):
    found, _ = contest(SPEEDS | {"onnxruntime int8": 11.6})
    assert next(r for r in found.table if r.name == "onnxruntime int8").kept is None
    first = {"dense onnxruntime int8": [11.6, 8.0]}  # on the first look, and when it takes turns

    def speed(self, labels, rounds, **about):
        for label in labels:
            if times := first.get(label):
                self.speeds[label] = times.pop(0)
        return StubBench.time(self, labels, rounds, **about)

    monkeypatch.setattr(Rig, "time", speed)
    found, _ = contest(SPEEDS)
    assert found.row.name == "onnxruntime int8" and found.row.kept is not None
    first["dense onnxruntime int8"] = [11.6, 8.0]
    found, _ = contest(SPEEDS, {"onnxruntime int8": 0.05})
    assert found.row.name == "openvino fp32"


def test_the_fastest_full_precision_stays_beside_int8_that_is_twice_as_fast(contest):
    found, _ = contest(SPEEDS | {"openvino int8": 4.0})
    assert found.row.name == "openvino int8" and found.full.name == "openvino fp32" and found.full_seat is not None
    assert {r.name for r in found.table if r.latency_ms} == set(SPEEDS)


def test_int8_is_not_built_where_full_precision_shows_that_it_cannot_win(contest):
    found, _ = contest(SPEEDS | {"onnxruntime fp32": 40.0})
    assert "dense onnxruntime int8" not in Rig.made and "dense openvino int8" in Rig.made
    assert "not built" in next(r for r in found.table if r.name == "onnxruntime int8").reason


def test_wrong_outputs_are_no_precision(contest):
    found, _ = contest(SPEEDS | {"openvino fp32": 5.0}, {"openvino fp32": 0.9})
    assert found.row.name == "onnxruntime int8"
    assert "its outputs are off" in next(r for r in found.table if r.name == "openvino fp32").reason


def test_a_process_that_dies_on_int8_does_not_take_full_precision_with_it(contest):
    found, _ = contest(SPEEDS, dies="openvino int8")
    assert found.row.name == "openvino fp32" and Rig.made.count("dense openvino fp32") == 2
    assert next(r for r in found.table if r.name == "openvino int8").reason == "out of memory"


def test_where_nothing_runs_every_reason_is_given(contest):
    with pytest.raises(NotAvailable, match=r"no runtime could run the dense model.*eager fp32: out of memory"):
        contest(SPEEDS, pairs=(("eager", "fp32"),), dies="eager fp32")


def test_a_limit_is_met_in_full_precision_before_int8(contest):
    found, _ = contest(SPEEDS | {"openvino int8": 7.0}, latency_ms=11.0)
    goal = Budget(latency_ms=11.0).goal(found.ms)
    assert dense_within(found, goal) is found.full
    assert dense_within(found, Budget(latency_ms=8.0).goal(found.ms)) is found.row
    assert dense_within(found, Budget(latency_ms=5.0).goal(found.ms)) is None
    assert dense_within(found, Budget().goal(found.ms)) is None


def test_a_field_that_was_narrowed_is_not_called_the_best_on_this_machine():
    pairs, others = contenders(Request(runtime="onnxruntime", precision="fp32"))
    assert pairs == [("onnxruntime", "fp32")] and Request(runtime="onnxruntime").narrowed
    assert all("not tried" in r.reason for r in others if r.runtime == "eager")


def test_full_precision_is_built_first():
    pairs, _ = contenders(Request())
    kinds = [precision == "int8" for _, precision in pairs]
    assert kinds == sorted(kinds) and ("openvino", "int8") in pairs


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"runtime": "tensorrt"}, "unknown runtime 'tensorrt'"), ({"precision": "fp8"}, "unknown precision 'fp8'"),
     ({"batch": 0}, "batch is 0"), ({"threads": 0}, "threads is 0"), ({"device": "tpu"}, "'tpu' is no device"),
     ({"images": 3}, "--images is 3"), ({"seconds": 1.0}, "--seconds is 1")],
)  # fmt: skip
def test_what_is_out_of_range_is_refused_before_anything_starts(asked, message):
    with pytest.raises(InputError, match=message):
        contenders(Request(**asked))

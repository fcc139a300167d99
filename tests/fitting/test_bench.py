"""Builds beside each other, and what a measurement is."""

import numpy as np
import pytest
from support.fits import REF, StubBench

from foveate.fitting import bench as bench_module
from foveate.fitting.bench import Bench, Seat, Timing, by_turns, rounds_for, share_of
from foveate.target import Target


def test_a_timing_is_what_was_measured_and_nothing_more():
    ms = np.array([[10.0, 20.0, 40.0], [5.0, 10.0, 20.0]])
    timing = Timing(("dense", "plan"), ms, "verify")
    assert timing.median("dense") == 20.0 and timing.share("plan", "dense") == pytest.approx(0.5)
    assert timing.speedup("dense", "plan").value == pytest.approx(2.0)
    with pytest.raises(AttributeError):
        timing.stage = "search"  # type: ignore[misc]


def test_timing_leaves_no_trace_in_a_build():
    bench = StubBench({"dense": 10.0, "plan": 8.0})
    build = bench.add("dense")
    by_turns(Seat(bench, "dense"), Seat(bench, "dense"), 5)
    assert bench.builds["dense"] is build and not hasattr(build, "latencies_ms")


def test_two_runtimes_take_turns_each_in_its_own_process(monkeypatch):
    monkeypatch.setattr(bench_module.time, "sleep", lambda seconds: None)
    one, other = StubBench({"dense": 10.0}), StubBench({"plan": 8.0})
    one.add("dense"), other.add("plan")
    timing = by_turns(Seat(one, "dense"), Seat(other, "plan"), 40)
    assert timing.ms.shape == (2, 40) and timing.share("plan", "dense") == pytest.approx(0.8, rel=0.02)
    assert {rounds for _, rounds in one.timed + other.timed} == {1}  # one call at a time


def test_a_share_is_of_the_same_rounds():
    bench = StubBench({"dense": 10.0, "plan": 7.0})
    bench.add("dense"), bench.add("plan")
    assert share_of(Seat(bench, "dense"), Seat(bench, "plan")) == pytest.approx(0.7, rel=0.01)
    assert all(labels == ("dense", "plan") for labels, _ in bench.timed)


@pytest.mark.parametrize(("ms", "seconds", "rounds"), [(10, 1, 100), (1e4, 1, 10), (0.01, 1, 400)])
def test_rounds_fit_the_time(ms, seconds, rounds):
    assert rounds_for(ms, seconds) == rounds


class Nowhere:
    """Stands in for a worker: loading is all it is asked for."""

    def __init__(self, runtime, threads, device):
        self.loaded = []

    def load(self, key, path, *, precision, shape=None):
        self.loaded.append((key, precision))

    def drop(self, key):
        self.loaded = [pair for pair in self.loaded if pair[0] != key]


class Recorded:
    @classmethod
    def build(cls, model, folder, **about):
        assert not any(folder.iterdir()), "a build lands in a living one's folder"
        (folder / "model.onnx").write_text(about["precision"])
        return folder / "model.onnx"


@pytest.fixture
def bench(monkeypatch, tmp_path):
    from types import SimpleNamespace

    made = SimpleNamespace(facts=SimpleNamespace(image=(3, 4, 4)))
    monkeypatch.setattr(bench_module, "Worker", Nowhere)
    monkeypatch.setattr(bench_module, "RUNTIMES", {"onnxruntime": Recorded})
    monkeypatch.setattr(bench_module, "adapt", lambda model, steps: SimpleNamespace(eval=lambda: made))
    return Bench(None, REF, tmp_path, Target(runtime="onnxruntime", threads=1))  # type: ignore[arg-type]


def test_a_build_after_a_drop_never_lands_in_a_living_ones_folder(bench):
    bench.add("a"), bench.add("b")
    bench.drop("a")
    bench.add("c")  # two builds are alive again: a folder named by their number would be b's
    files = [build.file for build in bench.builds.values()]
    assert len({f.parent for f in files}) == 2 and all(f.exists() for f in files)


def test_one_bench_holds_several_precisions(bench):
    bench.add("full"), bench.add("small", precision="int8")
    assert bench.worker.loaded == [("full", "fp32"), ("small", "int8")]
    assert bench.builds["small"].plan.target.precision == "int8" and bench.target.precision == "fp32"

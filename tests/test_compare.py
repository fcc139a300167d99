"""`foveate compare` writes each row as it comes, keeps to its clock, and goes on where it was ended."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from foveate.commands.compare import RowClock, compare, in_order
from foveate.commands.comparison import Comparison, open_comparison
from foveate.errors import InputError
from foveate.fitting.request import Request
from foveate.plans import ModelRef
from foveate.preprocess import Preprocess
from foveate.result import Result


def case(seed=0):
    part = SimpleNamespace(sample=SimpleNamespace(images=SimpleNamespace(names=("a.jpg", "b.jpg"))))
    ref = ModelRef(name="tiny", weights="random", sha256=f"{seed:064d}", tokens=5, depth=2, prefix=1)
    loaded = SimpleNamespace(ref=ref, preprocess=Preprocess(size=(32, 32)))
    return SimpleNamespace(loaded=loaded, search=part, unseen=part, facts=SimpleNamespace(outputs="classes"))


def row(level, method, speedup=1.2):
    tags = {"method": method, "level": level, "outputs": "classes"}
    return {"level": level, "method": method, "speedup": speedup}, [
        Result(name="speedup", value=speedup or 1.0, unit="x", low=1.1, high=1.3, level=0.99, n=100, tags=tags)
    ]


def opened(folder, found=None, fresh=False, **asked):
    return open_comparison(folder, found or case(), Request(**asked), {"pairs": 100}, fresh)


def test_rows_are_there_for_the_next_run_and_the_page_can_be_opened(tmp_path):
    state = opened(tmp_path / "out")
    assert state.done == set() and not (tmp_path / "out").exists()
    state = state.model_copy(update={"against": ("openvino", "fp32")}).with_row(*row(0.7, "tome"))
    state.write(tmp_path / "out", "1 of 4 rows so far")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"compare.json", "results.jsonl", "compare.html"}
    assert "1 of 4 rows so far" in (tmp_path / "out" / "compare.html").read_text()
    again = opened(tmp_path / "out")
    assert again.done == {(0.7, "tome")} and again.against == ("openvino", "fp32") and again.rows == state.rows
    assert opened(tmp_path / "out", fresh=True).rows == ()


@pytest.mark.parametrize("other", [{"found": case(seed=1)}, {"batch": 2}, {"seed": 3}, {"threads": 1}])
def test_another_comparison_is_not_gone_on_with(other, tmp_path):
    opened(tmp_path).with_row(*row(0.7, "tome")).write(tmp_path, None)
    with pytest.raises(InputError, match=r"holds another comparison, of tiny \(1 rows\).*--fresh"):
        opened(tmp_path, **other)


def test_folders_of_others_and_damaged_ones_are_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="something else than a comparison"):
        opened(tmp_path)
    for text in ("", "{}", "[1]", '{"schema_version": 9}'):
        (tmp_path / "compare.json").write_text(text)
        with pytest.raises(InputError, match=r"compare\.json"):
            opened(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_rows_that_no_build_reached_are_known_and_not_shown():
    state = Comparison(of="x", name="tiny").with_row(*row(0.7, "tome")).with_row(*row(0.7, "topk", None))
    assert state.done == {(0.7, "tome"), (0.7, "topk")}
    assert [r["method"] for r in in_order(state, [(0.7, "topk"), (0.7, "tome"), (0.5, "tome")])] == ["tome"]


def test_the_clock_measures_one_row_in_any_case_and_stops_before_the_end(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = RowClock(60.0, now[0] - 59.0, a_build=5.0, plan=20.0)
    assert clock.room("pareto") and clock.ahead(["tome", "tome"]) == 30.0
    with clock.taking("tome"):
        now[0] += 40
    assert not clock.room("tome") and clock.ahead(["tome", "pareto"]) == 40.0 + 45.0


@pytest.mark.parametrize("wrong", [{"levels": (1.0,)}, {"levels": (0.01,)}, {"seconds": 1}, {"methods": ("tomee",)}])
def test_what_cannot_be_compared_is_told_before_anything_is_measured(wrong, tmp_path):
    with pytest.raises(InputError):
        compare(out=tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_with_the_rows_that_are_left(tmp_path):
    out = tmp_path / "out"
    words = ["--method", "topk", "--method", "tome", "--level", "0.8", "--images", "40", "--runtime", "eager",
             "--precision", "fp32", "--out", str(out), "--seconds", "400"]  # fmt: skip
    command = [sys.executable, "-m", "foveate", "compare", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    while not (out / "compare.json").exists() and process.poll() is None:
        time.sleep(0.05)  # written under another name and renamed: what is there is whole
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = json.loads((out / "compare.json").read_text())["rows"]
    assert 1 <= len(before) < 3
    done = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{len(before)} are there from before" in done.stderr
    after = json.loads((out / "compare.json").read_text())["rows"]  # what a method cannot reach here has a row, too
    assert after[: len(before)] == before and [r["method"] for r in after] == ["topk", "tome", "pareto"]
    assert json.loads(done.stdout)["rows"] == [r for r in after if r["speedup"] is not None]
    assert {p.name for p in out.iterdir()} == {"compare.json", "results.jsonl", "compare.html"}

"""The latency-workload profile: where it measures, how it keeps what it measured, and what the table makes of it."""

import json
import logging
import os
import signal
import subprocess
import sys
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.adapters import adapt
from foveate.errors import InputError
from foveate.planners.table import Curve
from foveate.plans import Step
from foveate.profiling import Point, Profile, profile
from foveate.profiling.curve import fit_cost, tabulate
from foveate.profiling.explore import coarse_grid, explore
from foveate.profiling.measure import _stored, copies, key_of, lowest, run
from foveate.profiling.store import Store, cache_folder

LOW, HIGH = 24, 197


def edges(points):
    tokens = sorted(points)
    return _table(Curve(tokens=tokens, ms=[points[n] for n in tokens])).right_edges(tokens[0], tokens[-1])


def _table(curve):
    from foveate.planners.table import LatencyTable

    return LatencyTable(fixed_ms=0, block=curve, attention=curve)


def explored(latency, budget=96, **kwargs):
    return explore(lambda counts: [latency(n) for n in counts], LOW, HIGH, budget, **kwargs)


def stairs(*cliffs, height=0.15):
    return lambda n: 10 * (1 + height) ** sum(n > c for c in cliffs)


# name: (latency of n, points of the curve that must have been found, most points)
CURVES = {
    "one cliff": (stairs(128), {128, 129}, 20),
    "cliffs as on a TX2": (stairs(32, 64, 128, height=0.4), {32, 33, 64, 65, 128, 129}, 24),
    "an odd cliff": (stairs(101), {101, 102}, 24),
    "two in one interval": (stairs(131, 139), {131, 132, 139, 140}, 28),
    "a cliff on a slope": (lambda n: n / 20 + 4 * (n > 128), {128, 129}, 34),
    "a hump": (lambda n: 10 + 2 * (128 < n <= 145) + (n > 128), {128, 129, 145, 146}, 26),
    "a drop": (lambda n: 10 - (n > 96), {96, 97}, 20),
    "a step every 16": (lambda n: 4.0 + -(-n // 16), {n for k in range(32, 193, 16) for n in (k, k + 1)}, 45),
    "a sawtooth of four": (lambda n: n / 10 * (1 + 0.06 * (n % 4 > 0)), {192, 196, 197}, 40),
    "flat": (lambda n: 10.0, {128, 197}, 15),
    "a straight line": (lambda n: 2 + n / 10, {128, 197}, 32),
    "a parabola": (lambda n: 2 + n / 20 + n * n / 4000, {128, 197}, 34),
    "a period of 16 on a parabola": (lambda n: 2 + (-(-n // 16)) ** 2 / 20, {64, 65, 128, 129, 176, 177}, 46),
}


@pytest.mark.parametrize("name", CURVES)
def test_cliffs_are_found_to_one_token_in_few_points(name):
    latency, needed, most = CURVES[name]
    found = explored(latency)
    assert found.complete and needed <= found.points.keys() and len(found.points) <= most
    assert all(found.points[n] == latency(n) for n in found.points)


@pytest.mark.parametrize("name", CURVES)
def test_the_candidates_hold_the_last_fast_count_before_every_cliff(name):
    """On the explored points, the edges are true right edges: no larger count of all is as fast."""
    latency, _, _ = CURVES[name]
    wanted = {e for e in edges({n: latency(n) for n in range(LOW, HIGH + 1)}) if latency(e) <= 0.95 * latency(e + 1)}
    found = set(edges(explored(latency).points))
    if name == "a sawtooth of four":  # every fourth count is one; the largest is what matters
        wanted = {196}
    assert wanted - {LOW, HIGH} <= found


@settings(deadline=None, max_examples=100)
@given(cliff=st.integers(LOW, HIGH - 1), height=st.floats(0.07, 1), slope=st.floats(0, 0.02), seed=st.integers(0, 99))
def test_any_single_cliff_is_found_under_noise(cliff, height, slope, seed):
    rng = np.random.default_rng(seed)
    noise = {n: 1 + 0.004 * rng.uniform(-1, 1) for n in range(LOW, HIGH + 1)}
    found = explored(lambda n: (10 * (1 + height * (n > cliff)) + slope * n) * noise[n])
    assert {cliff, cliff + 1} <= found.points.keys() and len(found.points) <= 60


def test_a_coarse_grid_alone_would_miss_the_cliff():
    """The check above can fail."""
    assert not {101, 102} <= set(coarse_grid(LOW, HIGH))


@pytest.mark.parametrize("budget", [1, 5, 17])
def test_the_budget_holds(budget):
    found = explored(stairs(32, 64, 100, 128, 150), budget)
    assert len(found.points) == budget and not found.complete


def test_time_that_is_over_ends_it():
    left = iter([4, 4, 2])

    def measure(counts):
        return [10.0] * min(len(counts), next(left))

    found = explore(measure, LOW, HIGH, 96)
    assert len(found.points) == 10 and not found.complete


def test_known_points_cost_nothing():
    first, asked = explored(stairs(101)), []
    again = explore(asked.extend, LOW, HIGH, 0, known=first.points)
    assert again == first and not asked


@pytest.mark.parametrize("low, high", [(3, 4), (3, 3), (8, 50), (32, 257), (128, 1025), (200, 4097)])
def test_the_grid_has_both_ends_and_stays_small(low, high):
    grid = coarse_grid(low, high)
    assert {low, high} <= set(grid) <= set(range(low, high + 1)) and len(set(grid)) == len(grid) <= 24
    assert explore(lambda c: [float(n) for n in c], low, high, 96).complete


# The store.

ROW = ("blocks", 128, 128, 0.5, 20.0, 5)


def test_points_come_back(tmp_path):
    with Store(tmp_path / "a" / "p.sqlite") as store:
        store.add("k", [ROW, ("ends", 197, 197, 0.1, 21.0, 5)])
        store.add("other", [ROW])
        store.add("k", [(*ROW[:3], 0.6, 20.0, 10)])
        store.finish("k", "text")
    with Store(tmp_path / "a" / "p.sqlite") as store:
        assert store.points("k") == [(*ROW[:3], 0.6, 20.0, 10), ("ends", 197, 197, 0.1, 21.0, 5)]
        assert store.finished("k") == "text" and store.finished("other") is None
        store.clear("k")
        assert store.points("k") == [] and store.finished("k") is None and store.points("other") == [ROW]


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("FOVEATE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "foveate"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somewhere")
    assert str(cache_folder()) == "/somewhere/.cache/foveate"


WRITER = """
import sys
from pathlib import Path
from foveate.profiling.store import Store
with Store(Path(sys.argv[1])) as store:
    for n in range(int(sys.argv[3])):
        store.add("k", [(sys.argv[2], n, n, 0.5, 20.0, 5)])
        print(n, flush=True)
"""


def writer(path, part, count):
    command = [sys.executable, "-c", WRITER, str(path), part, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_process_loses_nothing_it_had_stored(tmp_path):
    path = tmp_path / "p.sqlite"
    child = writer(path, "blocks", 10**9)
    assert child.stdout is not None
    seen = [int(child.stdout.readline()) for _ in range(50)][-1]
    os.kill(child.pid, signal.SIGKILL)
    rest = child.stdout.read().splitlines()
    child.stdout.close()
    child.wait()
    last = int(rest[-1]) if rest else seen
    with Store(path) as store:
        stored = [row[1] for row in store.points("k")]
        assert stored[: last + 1] == list(range(last + 1)) and len(stored) <= last + 2
        store.add("k", [ROW])


def test_two_processes_write_at_once(tmp_path):
    children = [writer(tmp_path / "p.sqlite", part, 100) for part in ("a", "b")]
    assert [(child.communicate(timeout=60), child.returncode)[1] for child in children] == [0, 0]
    with Store(tmp_path / "p.sqlite") as store:
        assert [row[:2] for row in store.points("k")] == [(part, n) for part in "ab" for n in range(100)]


@pytest.mark.parametrize("damage", ["text", "header", "middle"])
def test_a_broken_file_is_moved_aside(tmp_path, caplog, damage):
    path = tmp_path / "p.sqlite"
    with Store(path) as store:
        store.add("k", [("blocks", n, n, 0.5, 20.0, 5) for n in range(500)])
    whole = path.read_bytes()
    broken = {
        "text": b"this is not a database, it is a line of text, and long enough to be looked at as one" * 9,
        "header": b"\0" * 100 + whole[100:],
        "middle": whole[:4096] + os.urandom(len(whole) - 4096),
    }[damage]
    path.write_bytes(broken)
    with caplog.at_level(logging.WARNING), Store(path) as store:
        assert store.points("k") == []
        store.add("k", [ROW])
    assert "not a sound database" in caplog.text
    (aside,) = tmp_path.glob("*.broken-*")
    assert aside.read_bytes() == broken
    with Store(path) as store:
        assert store.points("k") == [ROW]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING), Store(tmp_path / "file" / "p.sqlite") as store:
        store.add("k", [ROW])
        assert store.points("k") == [ROW]
    assert "profiles are not kept" in caplog.text


def test_a_read_only_file_is_done_without(tmp_path, caplog):
    Store(tmp_path / "p.sqlite").__exit__()

    class ReadOnly(Store):  # as root sees no permissions, SQLite is told
        def _connect(self):
            db = super()._connect()
            db.execute("PRAGMA query_only = 1")
            return db

    with caplog.at_level(logging.WARNING), ReadOnly(tmp_path / "p.sqlite") as store:
        store.add("k", [ROW])
        assert store.points("k") == [ROW]
    assert "profiles are not kept" in caplog.text


# What is measured, and in which order, on a device that is made up.


class Device:
    """12 blocks, each a staircase; fixed, attention and reduction costs are known exactly."""

    depth, full, reference = 12, 197, 24.0

    def __init__(self, dies_after=10**9):
        self.calls, self.left = [], dies_after

    def block_ms(self, n):
        return 0.5 + n / 400 + 0.4 * (n > 128)

    def attention_ms(self, n):
        return 0.1 + n / 1000

    def reduce_ms(self, method, n):
        return {"tome": 0.05 + n * n / 1e5, "topk": 0.02}[method]

    def _point(self, part, n, m, ms):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.calls.append((part, n))
        whole = self.depth * self.block_ms(self.full)
        return Point(part=part, n=n, m=m, ratio=ms / whole, reference_ms=whole, rounds=5)

    def blocks(self, counts):
        return [self._point("blocks", n, n, self.depth * self.block_ms(n)) for n in counts]

    def attention(self, counts):
        return [self._point("attention", n, n, self.depth * self.attention_ms(n)) for n in counts]

    def ends(self):
        return [self._point("ends", self.full, self.full, 1.5)]

    def reduce(self, methods, n):
        return [self._point(f"reduce:{m}", n, n - n // 3, self.reduce_ms(m, n)) for m in methods]


def measured(device, store, methods=("tome", "topk"), **kwargs):
    kwargs = {"more": lambda: True} | kwargs
    return run(device, store, "k", low=LOW, high=HIGH, prefix=1, methods=methods, **kwargs)


def made(points, **kwargs):
    fields = {"family": "ViT", "tokens": 197, "depth": 12, "prefix": 1, "runtime": "eager", "precision": "fp32"}
    fields |= {"batch": 1, "threads": 2, "reference_ms": 16.7, "table": tabulate(points, 12), "points": points}
    return Profile(**fields | {"complete": True, "seconds": 45, "origin": {}} | kwargs)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "p.sqlite") as store:
        yield store


def test_the_table_predicts_the_made_up_device(store):
    device = Device()
    points, complete = measured(device, store)
    found = made(points)
    assert complete and 128 in found.counts and 129 in found.table.block.tokens
    assert found.dense_ms == pytest.approx(1.5 + 12 * device.block_ms(197))
    one = found.predict([Step(block=3, method="topk", tokens=128)])
    attention, block = device.attention_ms, device.block_ms
    cut = attention(197) + 0.02 + block(128) - attention(128)
    assert one == pytest.approx(1.5 + 3 * block(197) + cut + 8 * block(128))
    assert found.table.reduce["topk"](197, 128) == pytest.approx(0.02)
    assert found.table.reduce["tome"](150, 100) == pytest.approx(0.05 + 0.225, rel=0.05)


def test_what_is_stored_is_not_measured_again(store):
    first, _ = measured(Device(), store)
    again = Device()
    assert measured(again, store) == (first, True) and again.calls == []


@pytest.mark.parametrize("points", [0, 1, 5, 11, 20])
def test_what_was_broken_off_is_gone_on_with(store, points):
    broken, rest = Device(dies_after=points), Device()
    with pytest.raises(KeyboardInterrupt):
        measured(broken, store)
    found, _ = measured(rest, store)
    whole = {(p.part, p.n) for p in found}
    kept = {(part, n) for part, n, *_ in store.points("k")}
    assert kept == whole
    assert len(set(broken.calls) & set(rest.calls)) <= 2  # only the group that was being measured


def test_a_new_method_is_measured_alone(store):
    measured(Device(), store, methods=("topk",))
    more = Device()
    measured(more, store, methods=("topk", "tome"))
    assert {part for part, _ in more.calls} == {"reduce:tome"}


def test_when_time_is_over_the_coarse_curve_is_there(store):
    points, complete = measured(Device(), store, more=lambda: False)
    assert not complete and {p.n for p in points if p.part == "blocks"} == set(coarse_grid(LOW, HIGH))


def test_large_models_are_loaded_one_count_at_a_time(store):
    assert copies(vit()) == 3 and copies(vit(), limit_bytes=1.0) == 1
    sizes = []

    class Counted(Device):
        def blocks(self, counts):
            sizes.append(len(counts))
            return super().blocks(counts)

    measured(Counted(), store, at_once=1)
    assert set(sizes) == {1}


def test_progress_ends_at_its_total(store):
    told = []
    measured(Device(), store, progress=lambda *a: told.append(a))
    done, totals = [d for d, _, _ in told], [t for _, t, _ in told]
    assert done == sorted(done) and told[-1][0] == told[-1][1] == totals[-1]
    assert all(d < t for d, t, _ in told[:-1]) and all(text for _, _, text in told)


def test_a_finished_profile_is_taken_where_more_time_would_not_help(store):
    points, _ = measured(Device(), store)
    for complete, seconds, methods, taken in [
        (True, 90, ("tome",), True),
        (False, 90, ("tome",), False),
        (False, 45, ("tome", "topk"), True),
        (True, 45, ("pitome",), False),
    ]:
        store.finish("k", made(points, complete=complete).model_dump_json())
        assert (_stored(store, "k", methods, seconds) is not None) == taken
    store.finish("k", "{}")
    assert _stored(store, "k", (), 1) is None


def test_costs_are_fitted_and_never_negative():
    rows = [(n, 0.3 + 1e-3 * n + 2e-6 * n * n) for n in (50, 100, 150, 197)]
    cost = fit_cost(rows)
    assert [cost(n, 10) for n, _ in rows] == pytest.approx([ms for _, ms in rows])
    assert fit_cost([(197, -0.1), (99, -0.2)])(197, 99) == 0.0


def test_a_profile_survives_the_file(tmp_path, store):
    found = made(measured(Device(), store)[0])
    assert Profile.load(found.save(tmp_path / "p.json")) == found
    text = json.loads((tmp_path / "p.json").read_text()) | {"batch": "many"}
    (tmp_path / "p.json").write_text(json.dumps(text))
    with pytest.raises(InputError, match=r"p\.json is not a profile: batch"):
        Profile.load(tmp_path / "p.json")
    with pytest.raises(InputError, match="cannot read"):
        Profile.load(tmp_path / "none.json")


# The parts of real models.


def vit(**kwargs):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 5}
    return VisionTransformer(**shape | kwargs).eval()


def eva():
    from timm.models.eva import Eva

    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 5}
    return Eva(**shape, use_rot_pos_emb=True).eval()


@pytest.mark.parametrize("host", [vit, eva])
@torch.no_grad()
def test_the_parts_are_the_model(host):
    from foveate.profiling.stack import Ends, Stack

    model, image = host(), torch.randn(2, 3, 32, 32)
    reduced = adapt(model)
    tokens = reduced.embed(image)
    torch.testing.assert_close(Ends(reduced)(image), reduced.finish(tokens))
    stack, attention = Stack(reduced), Stack(reduced, attention_only=True)
    stack.exit = attention.exit = torch.nn.Identity()
    if added := stack.added:
        tokens.x[:, :added] = 0.0
    else:
        torch.testing.assert_close(reduced.finish(tokens._replace(x=stack(tokens.x))), model(image))
    torch.testing.assert_close(stack(tokens.x[:, added:]), reduced.blocks(tokens).x)
    halves = tokens
    for block in range(3):
        halves = reduced.attend(block, halves, None)
    torch.testing.assert_close(attention(tokens.x[:, added:]), halves.x)
    assert stack(tokens.x[:, added:40]).shape == (2, 40, 32)


@pytest.mark.parametrize("host", [vit, eva])
@torch.no_grad()
def test_reductions_are_those_of_an_adapted_model(host):
    from torch import nn

    from foveate.profiling.stack import Reductions

    model, x = host(), torch.randn(2, 60, 32)
    stack = Reductions(model, "tome", [50, 41])
    stack.exit = nn.Identity()
    reduced = adapt(model, [Step(block=1, method="tome", tokens=50), Step(block=2, method="tome", tokens=41)])
    tokens = adapt(model).embed(torch.randn(2, 3, 32, 32))
    rope = None if tokens.rope is None else tokens.rope[:, : 60 - tokens.prefix]
    tokens = tokens._replace(x=x, size=tokens.size[:, :60], rope=rope)
    torch.testing.assert_close(stack(x), reduced.blocks(tokens).x)
    free = Reductions(model, None, [50, 41])
    assert free(x).shape[1] == 41 and not free.reduced.reducers
    assert Reductions(model, "tome", [40])(x).shape[1] == 40


@pytest.mark.parametrize(
    "tokens, prefix, depth", [(197, 1, 12), (198, 2, 12), (65, 1, 3), (17, 1, 2), (4, 1, 1), (1025, 0, 40)]
)
@pytest.mark.parametrize("share", [0.3, 0.4, 0.8, 1.0])
def test_trials_descend_about_the_count_asked_for(tokens, prefix, depth, share):
    from foveate.profiling.stack import trial

    n = prefix + max(2, int((tokens - prefix) * share))
    start, counts = trial(n, tokens, prefix, depth)
    falling = [start, *counts]
    assert start <= tokens and all(a > b >= prefix + 2 for a, b in pairwise(falling))
    assert 1 <= len(counts) <= min(4, depth) and all(b - prefix >= (a - prefix) / 2 for a, b in pairwise(falling))
    if tokens > 64 and share < 1:
        assert abs(sum(falling) / len(falling) / n - 1) < 0.1


def test_the_key_sees_structure_and_settings_but_no_weights():
    from foveate.adapters import describe

    def key(model, *settings):
        return key_of(model, describe(model), settings)

    other = vit()
    with torch.no_grad():
        other.head.bias.add_(1)
    assert key(vit(), 1) == key(other, 1)
    assert len({key(vit(), 1), key(vit(), 2), key(vit(depth=4), 1), key(vit(qk_norm=True), 1), key(eva(), 1)}) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0},
        {"threads": 0},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"runtime": "abacus"},
        {"precision": "fp3"},
        {"methods": ("tomee",)},
    ],
)
def test_arguments_are_checked_before_anything_is_measured(wrong):
    with pytest.raises(InputError, match=str(next(iter(wrong.values())))[:5].strip("(',")):
        profile(vit(), **{"runtime": "eager"} | wrong)


def test_a_method_that_needs_a_class_token():
    blind = vit(class_token=False, global_pool="avg")
    with pytest.raises(InputError, match="topk"):
        profile(blind, runtime="eager", methods=("topk",))


def check_end_to_end(model, tokens, **kwargs):
    told = []
    wanted = {"threads": 1, "methods": ("tome",), "seconds": 0.1} | kwargs
    found = profile(model, progress=lambda *a: told.append(a), **wanted)
    assert found.table.block.tokens[0] == lowest(tokens, found.prefix) and found.table.block.tokens[-1] == tokens
    assert min(found.table.block.ms) > 0 and min(found.table.attention.ms) > 0 and found.table.fixed_ms > 0
    assert found.dense_ms > 0 and found.reference_ms > 0 and set(found.table.reduce) == {"tome"} and told
    assert profile(model, **wanted) == found  # from the cache


def test_a_profile_in_plain_torch(monkeypatch, tmp_path):
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    check_end_to_end(vit(img_size=16, depth=2), 17, runtime="eager")


class FakeMeter(Device):
    made: ClassVar[list["FakeMeter"]] = []

    def __init__(self, model, runtime, precision, batch, threads):
        super().__init__()
        self.full = 65
        self.made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def test_the_cache_serves_until_asked_for_fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    monkeypatch.setattr("foveate.profiling.meter.RuntimeMeter", FakeMeter)
    FakeMeter.made.clear()
    runs = []
    for more in ({}, {}, {"fresh": True}, {"batch": 2}, {"methods": ("tome",)}):
        wanted = {"runtime": "eager", "threads": 1, "methods": ("topk",), "batch": 1} | more
        profile(vit(), **wanted)
        runs.append(len(FakeMeter.made))
    assert runs == [1, 1, 2, 3, 4]
    everything, cached = {part for part, _ in FakeMeter.made[0].calls}, FakeMeter.made[3].calls
    assert everything == {"ends", "attention", "blocks", "reduce:topk"}
    assert {part for part, _ in cached} == {"reduce:tome"}


@pytest.mark.slow
@pytest.mark.parametrize("host", [vit, eva])
@pytest.mark.parametrize(
    "runtime, precision",
    [("eager", "bf16"), ("compile", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32"),
     ("openvino", "bf16"), ("openvino", "int8")],
)  # fmt: skip
def test_a_profile_in_every_runtime(monkeypatch, tmp_path, host, runtime, precision):
    from foveate.runtimes import RUNTIMES

    if reason := RUNTIMES[runtime].why_not(precision):
        pytest.skip(reason)
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    check_end_to_end(host(), 65, runtime=runtime, precision=precision, batch=2)

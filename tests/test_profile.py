"""The latency-workload profile: what it measures, in which order, and what the table makes of it."""

import json
from itertools import pairwise
from typing import ClassVar

import pytest
import torch

from foveate.adapters import adapt
from foveate.errors import InputError
from foveate.hardware.timer import Load
from foveate.plans import Step
from foveate.profiling import Point, Profile, profile
from foveate.profiling.curve import fit_cost, tabulate
from foveate.profiling.explore import coarse_grid
from foveate.profiling.measure import _stored, copies, key_of, lowest, run
from foveate.profiling.quiet import await_quiet, others_worked, told
from foveate.profiling.store import Store
from foveate.target import Target

LOW, HIGH = 24, 197


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
    fields = {"family": "ViT", "tokens": 197, "depth": 12, "prefix": 1, "target": Target(threads=2)}
    fields |= {"reference_ms": 16.7, "table": tabulate(points, 12), "points": points}
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
        assert (_stored(store, "k", methods, seconds, lambda: IDLE) is not None) == taken
    store.finish("k", "{}")
    assert _stored(store, "k", (), 1, lambda: IDLE) is None


# What others do meanwhile.


class Disturbed(Device):
    """Others work while some of its calls run: all it times takes nine times as long, the reference three times.

    `seen`: the process that timed noticed their load.
    """

    def __init__(self, during, seen=True):
        super().__init__()
        self.during, self.seen, self.groups = during, seen, 0

    def _point(self, part, n, m, ms):
        p = super()._point(part, n, m, ms)
        if self.groups not in self.during:
            return p
        return p.model_copy(
            update={"ratio": 3 * p.ratio, "reference_ms": 3 * p.reference_ms if not self.seen else p.reference_ms,
                    "disturbed": self.seen}
        )  # fmt: skip

    def blocks(self, counts):
        self.groups += 1
        return super().blocks(counts)

    def attention(self, counts):
        self.groups += 1
        return super().attention(counts)


@pytest.mark.parametrize("during", [{1}, {2}, {5}, {7}, {9, 10}])
def test_a_point_whose_reference_was_far_is_measured_again(store, during):
    clean, _ = measured(Device(), Store(store.path.with_name("clean.sqlite")))
    device = Disturbed(during, seen=False)
    found, complete = measured(device, store)
    truth = {(p.part, p.n): p.ratio for p in clean}
    again = [call for call in device.calls if device.calls.count(call) > 1]
    assert complete and again
    assert {(p.part, p.n): p.ratio for p in found if (p.part, p.n) in truth} == pytest.approx(truth)


def test_what_stays_far_is_marked(store):
    class Odd(Device):
        def blocks(self, counts):
            slow = 3 if 48 in counts else 1
            return [p.model_copy(update={"reference_ms": slow * p.reference_ms}) for p in super().blocks(counts)]

    device = Odd()
    found, complete = measured(device, store, at_once=1)
    marked = {p.n for p in found if p.disturbed}
    assert complete and marked == {48} and 1 < device.calls.count(("blocks", 48)) <= 4  # and it ends


def test_points_measured_under_load_are_marked_and_measured_again_when_it_is_over(store):
    found, _ = measured(Disturbed({1, 6}), store)
    marked = {(p.part, p.n) for p in found if p.disturbed}
    assert {part for part, _ in marked} == {"attention", "blocks"}
    assert {(part, n) for part, n, *_, disturbed in store.points("k") if disturbed} == marked
    reused = Device()
    assert measured(reused, store, doubted=False) == (found, True) and reused.calls == []  # others work still
    anew = Device()
    better, _ = measured(anew, store)
    assert set(anew.calls) >= marked and not any(p.disturbed for p in better)
    assert [p.ratio for p in better if (p.part, p.n) in marked] != [p.ratio for p in found if (p.part, p.n) in marked]


def test_a_passing_disturbance_is_made_good_in_the_same_run(store):
    asked = []
    found, _ = measured(Disturbed({1, 6}), store, quiet=lambda: asked.append(1) or True)
    assert len(asked) == 1 and not any(p.disturbed for p in found)
    undisturbed = Disturbed(set())
    measured(undisturbed, Store(store.path.with_name("other.sqlite")), quiet=lambda: asked.append(1) or True)
    assert len(asked) == 1  # nothing to ask about


def test_waiting_ends_with_quiet_or_with_patience():
    loads, said = [WORKED, WORKED, IDLE], []
    assert await_quiet(lambda: loads.pop(0), 60, said.append) is None and loads == []
    assert said == ["waiting: other processes keep 1.8 cores busy: make (7) 1.7"] * 2
    now = iter(range(100))
    assert await_quiet(lambda: WORKED, 10, said.append, lambda: next(now)) == WORKED.notes[0] and len(said) == 11


def test_others_work_is_what_they_use_beyond_a_few_ticks():
    quiet = lambda cores, s: {"idle_cores": 0.0, "other_cores": cores, "seconds": s}
    assert not others_worked([]) and not others_worked([quiet(float("nan"), 1.0)])
    assert not others_worked([quiet(0.8, 0.025)])  # two ticks of the clock that counts CPU
    assert not others_worked([quiet(0.2, 1.0)] * 3) and others_worked([quiet(0.2, 1.0), quiet(1.5, 0.5)])


def test_a_disturbed_profile_says_so_in_a_line(store):
    points, _ = measured(Disturbed({1}), store)
    bad = sum(p.disturbed for p in points)
    line = f"{bad} of {len(points)} points were measured while others worked"
    assert told(None, points) == line and told("make 1.7", points) == f"{line}: make 1.7"
    clean = [p for p in points if not p.disturbed]
    assert told(None, clean) is None and told("make 1.7", clean) == "when measuring began, make 1.7"


def test_a_disturbed_profile_is_measured_again_once_it_is_quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    machine = {"during": {1, 2}}

    class Meter(FakeMeter):
        def attention(self, counts):
            points = super().attention(counts)
            return [p.model_copy(update={"disturbed": bool(machine["during"])}) for p in points]

    monkeypatch.setattr("foveate.profiling.meter.RuntimeMeter", Meter)
    said = []
    ask = lambda load: profiled(
        vit(), load, threads=1, methods=("topk",), patience_s=0.0, progress=lambda *a: said.append(a)
    )
    Meter.made.clear()
    first = ask(WORKED)
    assert first.disturbed and "make (7) 1.7" in first.disturbed and len(Meter.made) == 1
    assert ask(WORKED) == first and len(Meter.made) == 1  # no better now
    machine["during"] = set()
    second = ask(IDLE)
    assert len(Meter.made) == 2 and {part for part, _ in Meter.made[1].calls} == {"attention"}
    assert second.disturbed is None and not any(p.disturbed for p in second.points)
    assert ask(WORKED) == second and len(Meter.made) == 2  # a sound one is not doubted


def test_costs_are_fitted_and_never_negative():
    rows = [(n, 0.3 + 1e-3 * n + 2e-6 * n * n) for n in (50, 100, 150, 197)]
    cost = fit_cost(rows)
    assert [cost(n, 10) for n, _ in rows] == pytest.approx([ms for _, ms in rows])
    assert fit_cost([(197, -0.1), (99, -0.2)])(197, 99) == 0.0


def test_a_profile_survives_the_file(tmp_path, store):
    found = made(measured(Device(), store)[0])
    assert Profile.load(found.save(tmp_path / "p.json")) == found
    text = json.loads((tmp_path / "p.json").read_text()) | {"target": {"batch": "many"}}
    (tmp_path / "p.json").write_text(json.dumps(text))
    with pytest.raises(InputError, match=r"p\.json is not a profile: target\.batch"):
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
    assert 1 <= len(counts) <= min(2, depth) and all(b - prefix >= (a - prefix) / 2 for a, b in pairwise(falling))
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


IDLE = Load(0.5, 0.0, (), (), 0.0, None)
WORKED = Load(0.5, 1.8, (), (("make (7)", 1.7),), 0.0, None)


def profiled(model, load=IDLE, **kwargs):
    """`profile` on a machine with that load, its target named in keywords."""
    where = {name: kwargs.pop(name) for name in list(kwargs) if name in Target.model_fields}
    return profile(model, Target.of(**where), load=lambda: load, **kwargs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0},
        {"threads": 0},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"runtime": "abacus"},
        {"precision": "fp3"},
        {"device": "tpu"},
        {"methods": ("tomee",)},
    ],
)
def test_arguments_are_checked_before_anything_is_measured(wrong):
    with pytest.raises(InputError, match=str(next(iter(wrong.values())))[:5].strip("(',")):
        profiled(vit(), **wrong)


def test_a_method_that_needs_a_class_token():
    blind = vit(class_token=False, global_pool="avg")
    with pytest.raises(InputError, match="topk"):
        profiled(blind, methods=("topk",))


def check_end_to_end(model, tokens, **kwargs):
    told = []
    wanted = {"threads": 1, "methods": ("tome",), "seconds": 0.1, "load": WORKED} | kwargs  # so nothing is done twice
    found = profiled(model, progress=lambda *a: told.append(a), **wanted)
    assert found.table.block.tokens[0] == lowest(tokens, found.prefix) and found.table.block.tokens[-1] == tokens
    assert min(found.table.block.ms) > 0 and min(found.table.attention.ms) > 0 and found.table.fixed_ms > 0
    assert found.dense_ms > 0 and found.reference_ms > 0 and set(found.table.reduce) == {"tome"} and told
    assert found.target.threads == 1 and "make (7) 1.7" in str(found.disturbed)
    assert profiled(model, **wanted) == found  # from the cache


@pytest.mark.slow  # the fit in test_fitting makes one, too
def test_a_profile_in_plain_torch(monkeypatch, tmp_path):
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    check_end_to_end(vit(img_size=16, depth=2), 17, runtime="eager")


class FakeMeter(Device):
    made: ClassVar[list["FakeMeter"]] = []

    def __init__(self, model, target):
        super().__init__()
        assert target.threads is not None
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
        profiled(vit(), **{"threads": 1, "methods": ("topk",), "batch": 1} | more)
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

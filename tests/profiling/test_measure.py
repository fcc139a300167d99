"""What a profile measures, in which order, on a device that is made up, and what others do meanwhile."""

import json

import pytest
from support.devices import IDLE, WORKED, Device, FakeMeter, profiled, vit

from foveate.errors import InputError
from foveate.plans import Step
from foveate.profiling import Profile
from foveate.profiling.curve import fit_cost, tabulate
from foveate.profiling.explore import coarse_grid
from foveate.profiling.measure import _stored, copies, run
from foveate.profiling.quiet import await_quiet, others_worked, told
from foveate.profiling.store import Store
from foveate.target import Target

LOW, HIGH = 24, 197


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
    with Store(store.path.with_name("clean.sqlite")) as other:
        clean, _ = measured(Device(), other)
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
    with Store(store.path.with_name("other.sqlite")) as other:
        measured(undisturbed, other, quiet=lambda: asked.append(1) or True)
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

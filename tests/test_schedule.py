"""Schedules against the token counts and multiply-accumulates of the papers (pomt.md, sections 4.1, 4.2 and 4.4)."""

import json
import math
from itertools import pairwise

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate.adapters import Facts
from foveate.adapters.macs import macs_of
from foveate.commands.published import published
from foveate.errors import InputError
from foveate.plans import Step
from foveate.schedule import Schedule, block_macs, macs

THREE = (3, 6, 9)
SIZES = {  # width, depth, patch size, patches at 224 px
    "T": (192, 12, 16, 196),
    "S": (384, 12, 16, 196),
    "B": (768, 12, 16, 196),
    "L": (1024, 24, 16, 196),
    "H/14": (1280, 32, 14, 256),
    "S/14": (384, 12, 14, 256),
    "B/14": (768, 12, 14, 256),
    "L/14": (1024, 24, 14, 256),
}


def gmacs(size: str, schedule: Schedule) -> float:
    width, depth, patch_size, patches = SIZES[size]
    assert schedule.depth == depth
    return macs(schedule, width, patches=patches, patch_size=patch_size) / 1e9


def printed(value: float, text: str) -> bool:
    """Does `value` round to the digits printed?"""
    return abs(value - float(text)) <= 0.5 * 10.0 ** -len(text.partition(".")[2]) + 1e-9


def full(size: str) -> Schedule:
    return Schedule.full(SIZES[size][3] + 1, SIZES[size][1])


def tome(size: str, r: int, inflect: float = 0) -> Schedule:
    return Schedule.tome(SIZES[size][3] + 1, SIZES[size][1], r, inflect)


def evit(ratio: float, fused: bool = True) -> Schedule:
    return Schedule.keep_ratio(197, 12, ratio, THREE, fused=fused)


def staged(*counts: int) -> tuple[int, ...]:
    """197 tokens in the first three blocks, then each count for three."""
    return (197,) * 3 + tuple(c for c in counts for _ in range(3))


def falling(first: int, r: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last - 1, -r))


def test_printed_means_the_digits_given():
    assert printed(2.7031, "2.703")
    assert printed(2.7031, "2.7")
    assert not printed(2.7036, "2.703")
    assert not printed(2.76, "2.7")


# Section 4.1: dense models.
@pytest.mark.parametrize(
    ("size", "want"),
    [
        ("T", "1.254"),
        ("S", "4.599"),
        ("B", "17.564"),
        ("L", "61.555"),
        ("H/14", "167.30"),
        ("S/14", "6.124"),
        ("B/14", "23.16"),
        ("L/14", "81.01"),
    ],
)
def test_dense_models(size, want):
    assert printed(gmacs(size, full(size)), want)


# Section 4.2: (size, schedule, tokens at the MLP of every block, GMACs, GMACs the authors print)
ROWS = [
    ("S", tome("S", 5), falling(192, 5, 137), "3.854", None),
    ("S", tome("S", 8), falling(189, 8, 101), "3.416", None),
    ("S", tome("S", 13), falling(184, 13, 41), "2.703", "2.7"),
    ("S", tome("S", 16), (*falling(181, 16, 21), 11), "2.291", "2.3"),
    ("B", tome("B", 8), falling(189, 8, 101), "13.104", None),
    ("B", tome("B", 13), falling(184, 13, 41), "10.367", None),
    ("B", tome("B", 16), (*falling(181, 16, 21), 11), "8.772", "8.8"),
    ("L", tome("L", 8), (*falling(189, 8, 13), 7), "30.963", "31.0"),
    ("L", tome("L", 7), falling(190, 7, 29), "34.71", None),
    ("H/14", tome("H/14", 7), falling(250, 7, 33), "92.83", None),
    ("S", tome("S", 13, -1), (171, 148, 127, 109, 93, 79, 68, 59, 52, 48, 46, 46), "2.112", None),
    ("B", tome("B", 13, -1), (171, 148, 127, 109, 93, 79, 68, 59, 52, 48, 46, 46), "8.104", None),
    ("S", evit(0.9), staged(179, 163, 148), "4.022", "4.0"),
    ("S", evit(0.8), staged(159, 129, 105), "3.477", "3.5"),
    ("S", evit(0.7), staged(140, 100, 72), "3.029", "3.0"),
    ("S", evit(0.6), staged(120, 74, 46), "2.635", "2.6"),
    ("S", evit(0.5), staged(100, 52, 28), "2.309", "2.3"),
    ("S", evit(0.7, fused=False), staged(139, 98, 69), "2.997", "3.0"),
    ("B", evit(0.7), staged(140, 100, 72), "11.61", None),
    ("S", Schedule.stages(197, 12, 50, THREE), staged(147, 97, 49), "2.941", None),
    ("S", Schedule.shrink(197, 12, 0.925), (183, 170, 158, 147, 137, 127, 118, 110, 102, 95, 88, 82), "2.991", None),
    ("B", Schedule.shrink(197, 12, 0.925), (183, 170, 158, 147, 137, 127, 118, 110, 102, 95, 88, 82), "11.487", None),
    ("S", Schedule.shrink(197, 12, 0.9), (178, 161, 145, 131, 118, 107, 97, 88, 80, 73, 66, 60), "2.595", None),
    ("S", Schedule.pomt(197, 12, 56), (197,) * 3 + (141,) * 9, "3.624", None),
    ("S", Schedule.pomt(197, 12, 69), (197,) * 3 + (128,) * 9, "3.403", None),
    ("B", Schedule.pomt(197, 12, 69), (197,) * 3 + (128,) * 9, "13.056", None),
]


@pytest.mark.parametrize(("size", "schedule", "tokens", "want", "published"), ROWS)
def test_published_schedules(size, schedule, tokens, want, published):
    assert schedule.after == tokens
    assert printed(gmacs(size, schedule), want)
    assert published is None or printed(gmacs(size, schedule), published)


NAMED = {  # what `foveate compare --published` calls the rows above
    "tome r=5": 0, "tome r=8": 1, "tome r=13": 2, "tome r=16": 3, "tome r=13, -1": 10, "evit 0.9": 12, "evit 0.8": 13,
    "evit 0.7": 14, "evit 0.6": 15, "evit 0.5": 16, "evit 0.7, not fused": 17, "ppt r=50": 19, "pitome 0.925": 20,
    "pitome 0.9": 22, "pomt r=56": 23, "pomt r=69": 24,
}  # fmt: skip


def test_compare_lists_the_published_rows():
    from typer.testing import CliRunner

    from foveate.cli import app

    done = CliRunner().invoke(app, ["compare", "deit_small_patch16_224", "--random-weights", "--published", "--json"])
    rows = {r["setting"]: r for r in json.loads(done.stdout)["rows"]}
    assert set(NAMED) | {"tome r=7"} == set(rows)
    for name, at in NAMED.items():
        size, _, tokens, want, _ = ROWS[at]
        assert size == "S" and tuple(rows[name]["tokens"]) == tokens and printed(rows[name]["gmacs"], want), name


@pytest.mark.parametrize("row", [r for r in ROWS if r[0] != "S"])
def test_compare_lists_them_for_larger_models(row):
    """The rows of B, L and H: what the command does once a model is described."""
    size, _, tokens, want, _ = row
    width, depth, patch, patches = SIZES[size]
    side = int(patches**0.5)
    facts = Facts("VisionTransformer", patches + 1, depth, 1, width, 16, (side, side), (3, 224, 224), (patch, patch),
                  1000, True)  # fmt: skip
    assert any(tuple(r["tokens"]) == tokens and printed(r["gmacs"], want) for r in published(facts))


def test_dynamicvit():
    """DynamicViT prunes before a block, so attention and MLP see one count; its predictors are counted too."""
    tokens = Schedule.powers(197, 12, 0.7, THREE).after
    assert tokens == staged(138, 97, 68)
    block = lambda n: macs(Schedule.full(n, 1), 384, patches=0, patch_size=16, classes=0)
    rest = macs(Schedule.full(0, 1), 384, patches=196, patch_size=16)
    predictor = 384 * 384 + 384 * 192 + 192 * 96 + 96 * 2
    total = rest + sum(map(block, tokens)) + predictor * (196 + 137 + 96)
    assert printed(total / 1e9, "2.981")


def test_ppt_prints_a_little_more():
    """Its counter, 2.944, also sees the scores."""
    assert gmacs("S", Schedule.stages(197, 12, 50, THREE)) == pytest.approx(2.944, rel=2e-3)


def test_tome_decreasing_removes_what_the_paper_lists():
    schedule = tome("S", 13, -1)
    removed = [a - b for a, b in pairwise((197, *schedule.after))]
    assert removed == [26, 23, 21, 18, 16, 14, 11, 9, 7, 4, 2, 0]
    assert sum(removed) == 151


def test_dynamicvit_cuts_before_a_block_and_pays_for_its_predictors():
    """Its cut is in front of blocks 3, 6 and 9, so the MLP of the block before still sees every token."""
    c = 384
    schedule = Schedule.powers(197, 12, 0.7, [b - 1 for b in THREE])
    assert schedule.after == (197, 197, *(138,) * 3, *(97,) * 3, *(68,) * 4)
    late = sum(8 * (n - m) * c**2 for n, m in zip(schedule.before, schedule.after, strict=True))
    predictors = sum((n - 1) * (c * c + c * c // 2 + c // 2 * c // 4 + c // 4 * 2) for n in (197, 138, 97))
    assert printed(gmacs("S", schedule) + (late + predictors) / 1e9, "2.981")


def test_topk_keeps_a_power_of_the_ratio():
    assert Schedule.powers(197, 12, 0.7, THREE).after == staged(138, 97, 68)


@pytest.mark.parametrize(("size", "want"), [("S", "3.069"), ("B", "11.913")])
def test_pitome_counts_the_tokens_that_enter_a_block(size, want):
    """The authors' counter charges the MLP for the tokens in front of the reduction, and only the blocks."""
    c, schedule = SIZES[size][0], Schedule.shrink(197, 12, 0.925)
    assert printed(sum(12 * n * c**2 + 2 * n**2 * c for n in schedule.before) / 1e9, want)


# Section 4.4: DiffRate's searched schedules; the file's own target is met within 0.05.
@pytest.mark.parametrize(
    ("size", "counts", "want", "target"),
    [
        ("S", (197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3), "2.905", 2.9),
        ("B", (197, 197, 192, 178, 158, 145, 127, 111, 94, 50, 35, 3), "11.517", 11.5),
    ],
)
def test_diffrate_schedules(size, counts, want, target):
    schedule = Schedule.capped(197, counts)
    assert schedule.after == counts
    assert printed(gmacs(size, schedule), want)
    assert gmacs(size, schedule) == pytest.approx(target, abs=0.05)


def test_capped_takes_the_running_minimum():
    assert Schedule.capped(197, (250, 190, 195, 100)).after == (197, 190, 190, 100)


# The formula against a count of the real model.
def deit(size: str) -> torch.nn.Module:
    with torch.device("meta"):
        return timm.create_model({"T": "deit_tiny_patch16_224", "S": "deit_small_patch16_224"}[size])


def test_the_formula_equals_the_counter_on_a_dense_model():
    found = macs_of(deit("S"))
    assert found.backbone == macs(full("S"), 384, patches=196, patch_size=16)
    assert found.reduction == 0


@pytest.mark.parametrize("method", ["tome", "topk"])
def test_the_formula_equals_the_counter_on_a_reduced_model(method):
    schedule = Schedule.cut(197, 12, {3: 150, 6: 112, 9: 80})
    steps = [Step(block=b, method=method, tokens=n) for b, n in schedule.cuts.items()]
    found = macs_of(deit("T"), steps)
    assert found.backbone == macs(schedule, 192, patches=196, patch_size=16)
    assert 0 < found.reduction < 0.03 * found.backbone
    assert found.total == found.backbone + found.reduction


def test_the_overhead_of_topk_is_its_class_row():
    """One query against 197 keys of width 64, in three heads; sorting and gathering multiply nothing."""
    assert macs_of(deit("T"), [Step(block=3, method="topk", tokens=150)]).reduction == 197 * 64 * 3


# Laws.
starts = st.integers(4, 400)
depths = st.integers(1, 32)
prefixes = st.integers(0, 5)


@given(starts, prefixes, st.lists(st.integers(0, 200), min_size=1, max_size=32))
def test_removing_never_grows_and_takes_at_most_half(patches, prefix, counts):
    schedule = Schedule.remove(patches + prefix, counts, prefix)
    for n, m, count in zip(schedule.before, schedule.after, counts, strict=True):
        assert n - m == min(count, (n - prefix) // 2, n - prefix - 2)


@given(starts, depths, prefixes, st.data())
def test_a_cut_holds_until_the_next(patches, depth, prefix, data):
    start, now, cuts = patches + prefix, patches + prefix, {}
    for block in data.draw(st.sets(st.integers(0, depth - 1))):
        cuts[block] = 0
    for block in sorted(cuts):
        now = cuts[block] = data.draw(st.integers(prefix + 2, now))
    schedule = Schedule.cut(start, depth, cuts, prefix)
    assert schedule.before[0] == start
    assert all(a >= b for a, b in zip(schedule.before, schedule.after, strict=True))
    assert all(schedule.after[b] == n for b, n in cuts.items())
    assert set(schedule.cuts) <= set(cuts)
    assert Schedule.cut(start, depth, schedule.cuts, prefix) == schedule


@given(starts, depths, st.floats(0.3, 1), st.booleans())
def test_published_builders_never_grow(patches, depth, ratio, fused):
    patches += 20
    blocks = range(0, depth, 3)[:3]
    for build in (
        lambda: Schedule.powers(patches + 1, depth, ratio, blocks),
        lambda: Schedule.keep_ratio(patches + 1, depth, ratio, blocks, fused=fused and ratio < 0.9),
        lambda: Schedule.shrink(patches + 1, depth, ratio),
        lambda: Schedule.stages(patches + 1, depth, math.floor(ratio * 10), blocks),
    ):
        try:
            schedule = build()
        except InputError as e:
            assert "must leave" in str(e)
            continue
        assert all(a >= b for a, b in pairwise((schedule.start, *schedule.after)))


@given(starts, st.integers(1, 30), st.integers(1, 50))
def test_a_schedule_that_grows_is_refused(start, depth, more):
    with pytest.raises(InputError, match=f"cannot grow: block {depth - 1} is asked to make {start + more}"):
        Schedule(start, (*(start,) * (depth - 1), start + more))


@given(starts, prefixes, st.integers(-3, 1))
def test_a_schedule_below_prefix_plus_two_is_refused(patches, prefix, left):
    with pytest.raises(InputError, match=r"at least 2 patches"):
        Schedule.cut(patches + prefix, 12, {3: prefix + left}, prefix)


def test_other_nonsense_is_refused():
    with pytest.raises(InputError, match="block 12 does not exist: the model has blocks 0 to 11"):
        Schedule.cut(197, 12, {12: 100})
    with pytest.raises(InputError, match="at least one block"):
        Schedule(197, ())
    assert Schedule.full(2, 3).after == (2, 2, 2)  # a model this small is left alone, not refused


def test_where_the_width_changes_tokens_leave_behind_the_mlp():
    schedule = Schedule(17, (9, 9, 5))
    assert block_macs(schedule, (16, 32, 32)) == [
        4 * 17 * 16**2 + 2 * 17**2 * 16 + 8 * 17 * 16**2,
        4 * 9 * 32**2 + 2 * 9**2 * 32 + 8 * 9 * 32**2,
        4 * 9 * 32**2 + 2 * 9**2 * 32 + 8 * 5 * 32**2,
    ]
    kinds = {"patches": 16, "patch_size": 4, "classes": 7}
    assert macs(schedule, (16, 32, 32), **kinds) == sum(block_macs(schedule, (16, 32, 32))) + 48 * 16 * 16 + 32 * 7
    assert macs(schedule, (32,) * 3, **kinds) == macs(schedule, 32, **kinds)

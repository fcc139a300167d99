"""Every registered token budget against the laws: exact counts, one picture alone, padding, order, faults caught."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.tilings import PINPOINTS, tilings

from foveate.budgets import count, sizes
from foveate.budgets._base import _kept, cells_of, everything, within
from foveate.budgets.diverse import Diverse
from foveate.budgets.prunesid import principal_groups, unrepeated
from foveate.budgets.registered import BUDGETS, Kept, Sight
from foveate.budgets.tiling import Tiling, single
from foveate.budgets.uniform import spread
from foveate.errors import InputError

EXACT = sorted(name for name, cls in BUDGETS.items() if cls.exact)
NAME = pytest.mark.parametrize("name", EXACT)
WIDTH = 6


def sight(tiling: Tiling, seed: int = 0, *, scale: float = 1.0) -> Sight:
    """Random signals of every kind."""
    lot = torch.Generator().manual_seed(seed)
    n = tiling.cells
    features = torch.randn(n, WIDTH, generator=lot)
    late = torch.rand(n, generator=lot) * scale
    whole = tiling.whole[0] * tiling.whole[1]
    padded = torch.rand(len(tiling.capacities), max(whole, tiling.tile[0] * tiling.tile[1]), generator=lot)
    return Sight(
        tiling,
        early=torch.rand(whole, generator=lot) if tiling.viewed else None,
        late=late,
        keys=torch.randn(n, WIDTH, generator=lot),
        features=features,
        projected=features @ torch.randn(WIDTH, WIDTH, generator=lot),
        relevance=torch.rand(n, generator=lot),
        padded=padded,
    )


@NAME
@pytest.mark.parametrize("newlines", ["rows", "all", "none"])
@settings(deadline=None, max_examples=40)
@given(tilings(), st.data())
def test_the_mask_has_the_count(name: str, newlines: str, tiling: Tiling, data: st.DataObject):
    assume(tiling.cells < 700)
    budget = data.draw(st.integers(1, tiling.tokens + 3) | st.floats(0.001, 1.0))
    try:
        wanted = count(tiling, budget, newlines=newlines)
    except InputError:
        assume(False)
    method = BUDGETS[name](newlines=newlines)
    kept = method.keep(sight(tiling), budget)
    assert len(kept.rows) == wanted == method.count(tiling, budget)
    assert kept.rows.tolist() == sorted(set(kept.rows.tolist())) and kept.rows.max() < tiling.tokens
    assert kept.cells.tolist() == sorted(set(kept.cells.tolist())) and sum(kept.per_part) == len(kept.cells)
    rows = {tiling.row[cell] for cell in kept.cells.tolist()}
    ends = set(kept.rows.tolist()) - rows
    assert len(rows) == len(kept.cells) and ends <= set(tiling.newline_row)
    lines = {tiling.line[cell] for cell in kept.cells.tolist()} - {-1}
    if newlines == "rows":  # one after each line of which something stays; the last token may have to do without
        assert ends <= {tiling.newline_row[line] for line in lines} and len(lines) - len(ends) <= 1
    if newlines == "none" and wanted < tiling.tokens:
        assert not ends
    if newlines == "all":
        assert len(ends) == tiling.lines


@NAME
def test_all_is_all(name: str):
    tiling = sizes.anyres((480, 640), [(16, 16)], tile=8, grid=4)
    for budget in (1.0, tiling.tokens, 10**6):
        kept = BUDGETS[name]().keep(sight(tiling), budget)
        assert kept.rows.tolist() == list(range(tiling.tokens)) and kept.into is None


@NAME
@pytest.mark.parametrize("kind", ["alike", "nothing", "two kinds", "one apart"])
def test_cells_that_hardly_differ(name: str, kind: str):
    """A plain background: what compares cells finds all of them alike, or groups of them empty."""
    tiling = sizes.anyres((480, 640), [(16, 16)], tile=8, grid=4)
    features = torch.ones(tiling.cells, WIDTH)
    if kind == "nothing":
        features.zero_()
    elif kind == "two kinds":
        features[::2] = torch.arange(WIDTH).float()
    elif kind == "one apart":
        features[3] = -1
    seen = sight(tiling)._replace(features=features, keys=features, projected=features)
    for budget in (1, 7, tiling.tokens // 2, tiling.tokens - 1):
        kept = BUDGETS[name]().keep(seen, budget)
        assert len(kept.rows) == len(set(kept.rows.tolist())) == budget


def test_a_group_of_nobody_has_nobody_first():
    found = unrepeated(torch.zeros(0, 0), 0.5)
    assert torch.zeros(0, dtype=torch.long)[found].shape == (0,)
    # Two components, and no row that lies farthest out on the first of them.
    vectors = torch.cat([torch.eye(3).repeat(4, 1), torch.zeros(1, 3)])
    assert len(principal_groups(vectors, 3)) == 13


@NAME
@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_attention_that_says_nothing(name: str, scale: float):
    """Zero or non-finite mass: the count is kept all the same."""
    tiling = sizes.anyres((480, 640), [(16, 16)], tile=8, grid=4)
    bad = sight(tiling, scale=scale)._replace(early=torch.rand(16) * scale)
    assert len(BUDGETS[name]().keep(bad, 0.3).rows) == count(tiling, 0.3)


@NAME
def test_fewer_tokens_than_tiles(name: str):
    tiling = sizes.anyres((600, 600), [(24, 24)], tile=8, grid=4)
    for tokens in range(1, 12):
        assert len(BUDGETS[name]().keep(sight(tiling), tokens).rows) == tokens


@NAME
def test_ties_are_settled(name: str):
    tiling = sizes.anyres((600, 600), [(16, 16)], tile=8, grid=4)
    same = Sight(
        tiling,
        early=torch.ones(16),
        late=torch.ones(tiling.cells),
        keys=torch.ones(tiling.cells, WIDTH),
        features=torch.ones(tiling.cells, WIDTH),
        projected=torch.ones(tiling.cells, WIDTH),
    )
    first, again = (BUDGETS[name]().keep(same, 0.4) for _ in range(2))
    assert first.rows.tolist() == again.rows.tolist()


def test_hired_selects_by_late_attention():
    tiling = sizes.anyres((480, 640), PINPOINTS)
    signals = sight(tiling)
    kept = BUDGETS["hired"](newlines="none").keep(signals, 468)
    for cells, n in zip(cells_of(tiling), kept.per_part, strict=True):
        best = set(cells[signals.late[cells].topk(n).indices].tolist())
        assert best == set(kept.cells.tolist()) & set(cells.tolist())
    assert kept.per_part[0] == 234


def test_rows_pay_for_their_newlines():
    """Half of a budget that covers many rows goes on being shared by content after newlines are paid."""
    tiling = sizes.anyres((480, 640), PINPOINTS)
    signals = sight(tiling)
    plain, paid = (BUDGETS["hired"](newlines=kind).keep(signals, 468) for kind in ("none", "rows"))
    assert paid.per_part[0] == plain.per_part[0] == 234
    assert len(paid.rows) == len(plain.rows) == 468
    ratio = [a / b for a, b in zip(paid.per_part[1:], plain.per_part[1:], strict=True)]
    assert max(ratio) - min(ratio) < 0.05


def test_official_loses_what_lies_in_padding():
    tiling = sizes.anyres((480, 640), PINPOINTS)
    signals = sight(tiling)
    kept = BUDGETS["hired-official"]().keep(signals, 0.2)
    assert len(kept.rows) < count(tiling, 0.2)
    whole = {cell for cell in kept.cells.tolist() if tiling.part[cell] == 0}
    assert whole == set(signals.padded[0].topk(kept.per_part[0]).indices.tolist())
    with pytest.raises(InputError, match="no count from its size"):
        BUDGETS["hired-official"]().count(tiling, 0.2)


def test_official_picks_each_tiles_best():
    """Without padding its masks are those of the golden counts."""
    tiling = sizes.anyres((600, 600), PINPOINTS)
    signals = sight(tiling)
    cell = torch.arange(576)
    signals = signals._replace(early=torch.exp(-((cell // 24 - 6) ** 2 + (cell % 24 - 17) ** 2) / 32.0))
    from foveate.budgets import Budget

    kept = BUDGETS["hired-official"]().keep(signals, Budget(ratio=0.2, base="nominal"))
    assert kept.per_part == (288, 104, 106, 78, 0)
    paper = BUDGETS["hired-paper"]().keep(signals, Budget(ratio=0.2, base="nominal"))
    assert paper.per_part == (288, 23, 239, 2, 23)
    upper_left = kept.cells[[tiling.part[c] == 1 for c in kept.cells.tolist()]]
    inside = {tiling.place[c][0] * 24 + tiling.place[c][1] for c in upper_left.tolist()}
    assert inside == set(signals.padded[1].topk(104).indices.tolist())


def test_visionzip_adds_group_means():
    tiling = single(4, 4)
    signals = sight(tiling)
    kept = BUDGETS["visionzip"]().keep(signals, 8)
    assert kept.into is not None and kept.added
    dominant = set(signals.late.topk(7).indices.tolist())
    targets = set(kept.cells.tolist()) - dominant
    assert len(targets) == 1 and dominant <= set(kept.cells.tolist())
    (target,) = targets
    others = [c for c in range(16) if c not in set(kept.cells.tolist())]
    slot = kept.cells.tolist().index(target)
    assert kept.into[others].tolist() == [slot] * len(others)
    out = kept.pick(signals.features)
    assert torch.allclose(out[slot], signals.features[target] + signals.features[others].mean(0), atol=1e-6)
    plain = [n for n in range(8) if n != slot]
    assert torch.equal(out[plain], signals.features[kept.cells[plain]])


def test_merging_averages_where_it_is_told_to():
    kept = Kept(single(1, 4), torch.tensor([0, 2]), torch.tensor([0, 2]), into=torch.tensor([0, 0, 1, -1]))
    features = torch.tensor([[1.0], [3.0], [5.0], [7.0]])
    assert kept.pick(features).tolist() == [[2.0], [5.0]]


def test_divprune_against_its_definition():
    signals = sight(single(4, 5))
    x = torch.nn.functional.normalize(signals.projected, dim=1)
    far = 1 - x @ x.T
    alone = far.clone().fill_diagonal_(9)
    chosen = [int(alone.min(1).values.argmax())]
    while len(chosen) < 6:
        rest = [n for n in range(20) if n not in chosen]
        chosen.append(max(rest, key=lambda n: float(far[n, chosen].min())))
    assert BUDGETS["divprune"]().order(signals, 6).tolist() == chosen


def test_cdpruner_against_determinants():
    signals = sight(single(3, 4))
    q = signals.relevance
    q = (q - q.min()) / (q.max() - q.min()) + 1e-6
    v = torch.nn.functional.normalize(signals.projected.double(), dim=1) * q[:, None]
    chosen: list[int] = []
    while len(chosen) < 5:
        rest = [n for n in range(12) if n not in chosen]
        chosen.append(max(rest, key=lambda n: float(torch.linalg.det(v[[*chosen, n]] @ v[[*chosen, n]].T))))
    assert BUDGETS["cdpruner"]().order(signals, 5).tolist() == chosen


def test_vispruner_halves():
    signals = sight(single(6, 6))
    order = BUDGETS["vispruner"]().order(signals, 10)
    assert set(order[:5].tolist()) == set(signals.late.topk(5).indices.tolist()) and len(set(order.tolist())) == 10


def test_dart_takes_the_least_alike():
    signals = sight(single(5, 8))
    order = BUDGETS["dart"]().order(signals, 9)
    pivots = signals.keys.abs().sum(1).topk(8).indices
    assert set(order[:8].tolist()) == set(pivots.tolist())
    x = torch.nn.functional.normalize(signals.features, dim=1)
    likeness = x[order[0]] @ x.T
    likeness[pivots] = 9
    assert int(order[8]) == int(likeness.argmin())


def test_a_repetition_waits():
    """Ours: of two cells that say the same, the one attended to less comes after everything else."""
    features = torch.eye(6)
    features[1] = features[0]
    signals = Sight(single(1, 6), late=torch.tensor([9.0, 8.0, 3.0, 2.0, 1.0, 0.5]), early=None, features=features)
    assert Diverse().order(signals, 6).tolist() == [0, 2, 3, 4, 5, 1]


def test_uniform_is_spread():
    places = torch.tensor(spread(24, 24)[:144])
    quarters = (places[:, 0] // 12) * 2 + places[:, 1] // 12
    assert torch.bincount(quarters).tolist() == pytest.approx([36] * 4, abs=3)
    assert len(set(spread(7, 5))) == 35 and len(spread(1, 1)) == 1


def test_every_method_says_what_it_is():
    for name, cls in BUDGETS.items():
        assert cls.__doc__ or __import__(cls.__module__, fromlist=["x"]).__doc__, name


# Faults planted


def short_by_one(order, tiling, tokens, newlines):
    cells, lines = within(order, tiling, tokens, newlines)
    return cells[1:], lines


def free_newlines(order, tiling, tokens, newlines):
    cells = order[:tokens].sort().values
    return cells, torch.tensor(sorted({tiling.line[c] for c in cells.tolist()} - {-1}))


@pytest.mark.parametrize("fault", [short_by_one, free_newlines])
def test_a_wrong_count_is_seen(fault):
    tiling = sizes.anyres((480, 640), [(16, 16)], tile=8, grid=4)
    cells, lines = fault(torch.arange(tiling.cells).flip(0), tiling, 30, "rows")
    assert len(_kept(tiling, cells, lines, torch.device("cpu")).rows) != count(tiling, 30)
    assert len(everything(tiling, torch.device("cpu")).rows) == tiling.tokens

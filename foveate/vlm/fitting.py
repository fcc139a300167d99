"""The budget that keeps within a limit, as a line of values: options are searched, one is chosen and then proven.

An option is what the encoder's own blocks merge, with the most tokens a picture that keep within the limit beside it.
Fewer tokens in the encoder leave time for more tokens behind it; which of two options that both keep within the limit
costs less is asked of the model itself, by what it says with all tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from foveate.budgets.count import Budget
from foveate.budgets.tiling import Tiling
from foveate.errors import InputError, NotAvailable
from foveate.hardware.timer import Speedup, proven
from foveate.vlm._base import Family, family_of
from foveate.vlm.applying import Applied, applied_to
from foveate.vlm.judging import Cost, Reference, cost, reference
from foveate.vlm.limits import Limit, within_limit
from foveate.vlm.measuring import GB, first_token_ms, peak_bytes, stages, values_of

MERGED = (0.25, 0.5, 0.75)  # shares of an encoder's tokens that are merged by its last block
SHARES = (0.05, 0.1, 0.2, 0.4, 0.7)  # of a picture's tokens, at which the cost is told

Tell = Callable[[str, str], object]  # what is under way, what was found


@dataclass(frozen=True, eq=False)
class Case:
    """A model with a budget on it, one question as it takes it, and its answer with all tokens."""

    model: Any
    inputs: Mapping[str, Any]
    applied: Applied
    plain: Family  # hooks with the encoder as it was given
    tilings: Sequence[Tiling]
    answer: Reference

    @property
    def most(self) -> int:
        return max(tiling.tokens for tiling in self.tilings)


@dataclass(frozen=True, eq=False)
class Option:
    """What the encoder merges, and the most tokens a picture that keep within the limit with it.

    Args:
        encoder: such as tome:8; None for an encoder as it was given.
        tokens: None where not one token keeps within the limit.
        seen: the median of every count that was measured.
        cost: on the question; None where there is none to compare.
    """

    encoder: str | None
    family: Family
    tokens: int | None
    seen: Mapping[int, float]
    cost: Cost | None


@dataclass(frozen=True, eq=False)
class Proof:
    """All tokens and the option's, by turns."""

    speedup: Speedup
    all_ms: float
    kept_ms: float


@dataclass(frozen=True)
class Point:
    """What a share of the tokens costs on the question."""

    share: float
    tokens: int
    cost: Cost


def case_of(model: Any, inputs: Mapping[str, Any]) -> Case:
    """What every stage needs, of a model whose encoder is whole. Runs it once, with all tokens."""
    applied = applied_to(model)
    return Case(model, inputs, applied, applied.family, applied.family.tilings(inputs), reference(model, inputs))


def encoders(case: Case, asked: str | None) -> list[str | None]:
    """What the encoder may merge, by how little it is: only `asked`, or where that is `search` a ladder of tome.

    Raises:
        InputError: a search, of an encoder that cannot be reduced.
    """
    if asked != "search":
        return [asked]
    probe = family_of(case.model)
    probe.reduce_encoder("tome:1")
    tower: Any = getattr(probe, "tower", None)
    patches = tower.reduced.facts.tokens - tower.reduced.facts.prefix
    return [None, *(f"tome:{max(1, round(share * patches / tower.last))}" for share in MERGED)]


def hooks(case: Case, encoder: str | None) -> Family:
    """Those for the model with an encoder that merges so."""
    if encoder is None:
        return case.plain
    family = family_of(case.model)
    family.reduce_encoder(encoder)
    return family


def option(case: Case, encoder: str | None, family: Family, limit: Limit, goal: float, tell: Tell) -> Option:
    """Search the most tokens that keep within `goal`, in the unit of `limit`, and ask what that costs."""
    case.applied.family = family
    said = f"encoder {encoder}, " if encoder else ""
    found = within_limit(
        values_of(case.model, case.inputs, limit), goal, case.most,
        tell=lambda n, value: tell("search", f"{said}{n} tokens: {value:.4g} {limit.unit}"),
    )  # fmt: skip
    costs = None
    if found.tokens is not None:
        case.applied.budget = Budget(tokens=found.tokens)
        costs = cost(case.model, case.inputs, case.answer)
    return Option(encoder, family, found.tokens, found.seen, costs)


def chosen(options: Sequence[Option]) -> Option | None:
    """The one that costs least; of equal ones the first, which merges less. None where none keeps within the limit."""
    able = [o for o in options if o.tokens is not None and o.cost is not None]
    return min(able, key=lambda o: o.cost.kl if o.cost else 0.0) if able else None


def prove(case: Case, option: Option, pairs: int, claims: int = 1) -> Proof:
    """Time all tokens, the encoder as given, and the option by turns: `pairs` pairs, up to four times as many.

    Args:
        claims: how many such proofs there may be until one is taken; their intervals are as much wider.
    """
    lot = np.random.default_rng(0)
    case.applied.family = option.family

    def measure(n: int) -> tuple[np.ndarray, np.ndarray]:
        rows = []
        for _ in range(n):
            turns = {"all": lambda: first_token_ms(case.model, case.inputs, case.most, family=case.plain),
                     "kept": lambda: first_token_ms(case.model, case.inputs, option.tokens)}  # fmt: skip
            order = ("all", "kept") if lot.random() < 0.5 else ("kept", "all")
            ms = {which: turns[which]() for which in order}
            rows.append((ms["all"], ms["kept"]))
        base, other = np.array(rows).T
        return base, other

    speedup, all_ms, kept_ms = proven(measure, first=pairs, most=4 * pairs, claims=claims)
    return Proof(speedup, float(np.median(all_ms)), float(np.median(kept_ms)))


def split(case: Case, family: Family, tokens: int | None) -> dict[str, float]:
    """Milliseconds by stage, the medians of three answers. `tokens`: None for all."""
    budget = Budget(ratio=1.0) if tokens is None else Budget(tokens=tokens)
    rows = [asdict(stages(family, case.applied.method, budget, case.inputs)) for _ in range(3)]
    return {key: median(row[key] for row in rows) for key in rows[0]}


def peak(case: Case, family: Family, tokens: int | None) -> float | None:
    """Gigabytes in use at most; None where the system does not tell."""
    run = lambda: first_token_ms(case.model, case.inputs, tokens or case.most, family=family)
    try:
        return peak_bytes(run, case.model.device) / GB
    except NotAvailable:
        return None


def curve(case: Case, family: Family) -> list[Point]:
    """What shares of the tokens cost on the question, with this encoder."""
    case.applied.family = family
    points = []
    for share in SHARES:
        case.applied.budget = Budget(ratio=share)
        kept = max(case.applied.budget.of(tiling) for tiling in case.tilings)
        points.append(Point(share, kept, cost(case.model, case.inputs, case.answer)))
    return points


def needs_one(asked: Mapping[str, Any]) -> None:
    """
    Raises:
        InputError: several prompts.
    """
    if len(asked["input_ids"]) != 1:
        raise InputError(f"{len(asked['input_ids'])} prompts; a budget is fitted on one")

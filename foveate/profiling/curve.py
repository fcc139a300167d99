"""What a profile is: the points as measured, and the table that planners read, fitted to them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from foveate.files import read_as, write_text
from foveate.planners.table import Curve, LatencyTable, ReduceCost
from foveate.plans import Plan, Step
from foveate.schedule import Schedule
from foveate.target import Target


class Point(BaseModel):
    """One median latency.

    `part`: "blocks" (all blocks on n tokens), "attention" (their attention halves), "ends" (embedding and head), or
    "reduce:<method>" (one reduction of about n tokens: the mean of several in a row, the last of which leaves m). Timed
    in rounds beside a reference, the blocks on the full count; `ratio` is the median over the rounds of this over that,
    in which the machine's drift cancels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: str
    n: int
    m: int
    ratio: float
    reference_ms: float  # median of the reference in the same rounds
    rounds: int
    disturbed: bool = False  # others worked meanwhile, or the reference was far from what it mostly is


class Profile(BaseModel):
    """Latency of a model's parts on one target. JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    family: str
    tokens: int
    depth: int
    prefix: int
    target: Target  # its threads are a number
    reference_ms: float  # all blocks on the full count: the median over the whole profile
    table: LatencyTable
    points: list[Point]
    complete: bool  # False: the time was over before the curve was settled
    seconds: float  # allowed for measuring
    disturbed: str | None = None  # what disturbed the measurement, in one line
    origin: dict[str, Any]  # device facts, versions

    @property
    def dense_ms(self) -> float:
        """Predicted latency of the whole model, reducing nothing."""
        return self.predict(())

    @property
    def counts(self) -> list[int]:
        """Token counts worth landing on: the right edges of the curve's plateaus."""
        tokens = self.table.block.tokens
        return self.table.right_edges(tokens[0], tokens[-1])

    def predict(self, plan: Plan | Iterable[Step]) -> float:
        """Latency of a plan, or of reduction steps, in ms."""
        steps = plan.steps if isinstance(plan, Plan) else tuple(plan)
        cuts = {s.block: s.tokens for s in steps}
        schedule = Schedule.cut(self.tokens, self.depth, cuts, self.prefix)
        return self.table.predict(schedule, {s.block: s.method for s in steps})

    def save(self, path: str | Path) -> Path:
        return write_text(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a profile.

        Raises:
            InputError: where there is none, or it is not one; names the file and the field.
        """
        return read_as(cls, path, "is not a profile")


def tabulate(points: Sequence[Point], depth: int) -> LatencyTable:
    """Points -> costs of one block, in ms. Needs points of "blocks", "attention" and "ends"."""
    reference = float(np.median([p.reference_ms for p in points]))

    def curve(part: str) -> Curve:
        rows = sorted((p.n, p.ratio * reference / depth) for p in points if p.part == part)
        return Curve(tokens=[n for n, _ in rows], ms=[ms for _, ms in rows])

    costs: dict[str, list[tuple[int, float]]] = {}
    for p in points:
        if p.part.startswith("reduce:"):
            costs.setdefault(p.part.removeprefix("reduce:"), []).append((p.n, p.ratio * reference))
    return LatencyTable(
        fixed_ms=next(p.ratio * reference for p in points if p.part == "ends"),
        block=curve("blocks"),
        attention=curve("attention"),
        reduce={method: fit_cost(rows) for method, rows in sorted(costs.items())},
    )


def fit_cost(rows: Sequence[tuple[int, float]]) -> ReduceCost:
    """(n, ms) -> fixed + per token + per pair, none of them negative, by least squares."""
    from scipy.optimize import nnls

    n, ms = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows], float)
    top = n.max()
    columns = np.stack([np.ones_like(n), n / top, (n / top) ** 2], axis=1)
    fixed, token, pair = nnls(columns, np.maximum(ms, 0.0))[0]
    return ReduceCost(fixed_ms=fixed, per_token_ms=token / top, per_pair_ms=pair / top**2)

"""What `fit` writes beside the model and reports read: one schema for writer and reader."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from foveate.facts import Outputs
from foveate.files import read_as, write_text

VERDICT = "verdict.json"


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(_Written):
    """A number with its interval and sample size."""

    name: str  # "drop", "changed": what the budget counts
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    level: float | None = None
    n: int | None = None


class BudgetKept(_Written):
    """What was asked for, and what the photographs say of it."""

    text: str
    outcome: Literal["shown", "observed", "broken"]
    said: str  # the outcome in words, with the number of photographs
    needed: int | None = None  # unseen photographs for `shown` with no changed answer; None where nothing is capped


class Milliseconds(_Written):
    """Of one build, from the pairs of the proof."""

    p50: float  # plain median
    p99: float | None  # by MLPerf's rule; None where the sample is too small
    n: int


class SpeedUp(_Written):
    """Median of paired ratios, dense over plan."""

    value: float
    low: float
    high: float
    level: float
    n: int


class Rung(_Written):
    """A step of the ladder: the fastest dense build in full precision, in any, and the plan."""

    role: Literal["full", "any", "plan"]
    runtime: str
    precision: str
    latency_ms: float
    share: float  # of the first rung's latency
    cost: Figure | None = None
    agreement: float | None = None  # % of answers that stay
    plan: str = "dense"


class Rejected(_Written):
    plan: str
    reason: str


class Verdict(_Written):
    """verdict.json. `schema_version` changes when a reader of an old file must care."""

    schema_version: Literal[2] = 2
    outcome: Literal["faster", "dense"]
    outputs: Outputs = "classes"
    reason: str  # one sentence: the claim, or why there is none
    baseline: str  # "the best dense build on this machine", or what narrowed the field
    narrowed: bool = False
    budget: BudgetKept
    budget_met: bool
    speedup: SpeedUp | None = None
    cost: Figure | None = None
    agreement: Figure | None = None
    latency_ms: dict[Literal["dense", "plan"], Milliseconds] = {}
    ladder: tuple[Rung, ...] = ()
    warnings: tuple[str, ...] = ()  # a p99 that got worse, a machine that was not quiet
    next: tuple[str, ...] = ()  # commands
    rejected: tuple[Rejected, ...] = ()
    seconds: float
    stages: dict[str, float] = {}
    random_weights: bool = False
    note: str | None = None
    command: str = ""

    def save(self, folder: Path) -> Path:
        return write_text(folder / VERDICT, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """
        Raises:
            InputError: where there is none, or it is none of ours; names the field.
        """
        return read_as(cls, Path(folder) / VERDICT, "is not a verdict")

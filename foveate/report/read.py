"""What `foveate fit` left in a folder, as values. A missing part is None; a damaged one is an error that names it."""

import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

from foveate.errors import InputError
from foveate.facts import Outputs
from foveate.files import read_text
from foveate.plans import Plan
from foveate.report.kinds import KINDS, Kind, outputs_of
from foveate.report.words import percent
from foveate.result import Result, Tag, read_results
from foveate.written import OVERLAYS, VERDICT, BudgetKept, Milliseconds, Overlays, SpeedUp, Value, Verdict

LOSS_SPLITS = ("unseen", "confirm", "search")  # best evidence first
Role = Literal["dense", "plan"]
ROLES: dict[Role, str] = {"dense": "dense", "plan": "chosen"}  # of verdict.json: of the tag `plan` in results.jsonl
NAMES: dict[Role, str] = {"dense": "dense", "plan": "the plan"}  # of builds, in tables


@dataclass(frozen=True)
class Written:
    """A folder, read."""

    folder: Path
    plan: Plan
    results: list[Result]
    verdict: Verdict | None
    overlays: Overlays | None
    lacking: str = ""  # why there is no verdict

    def find(self, name: str, **tags: Tag) -> list[Result]:
        """Finite results of this name whose tags have these values, in the order of the file."""
        return find(self.results, name, **tags)

    def first(self, name: str, **tags: Tag) -> Result | None:
        return next(iter(self.find(name, **tags)), None)

    def proven(self, name: str) -> list[Result]:
        """Those of the final check; of the search only where there was no check. Never both: samples do not mix."""
        rows = self.find(name)
        stages = {str(r.tags.get("stage", "verify")) for r in rows}
        stage = "verify" if "verify" in stages else min(stages, default="")
        return [r for r in rows if r.tags.get("stage", "verify") == stage]

    def verified(self, name: str, **tags: Tag) -> Result | None:
        """The first such result among the `proven` ones."""
        return next(iter(find(self.proven(name), name, **tags)), None)

    def loss(self, name: str, **tags: Tag) -> Result | None:
        """The first such result on the photographs that are the best evidence there is."""
        for split in LOSS_SPLITS:
            if found := self.first(name, split=split, **tags):
                return found
        return self.first(name, **tags)

    @property
    def random_weights(self) -> bool:
        return self.plan.model.weights == "random" or (self.verdict is not None and self.verdict.random_weights)

    @property
    def faster(self) -> bool:
        return not self.plan.dense if self.verdict is None else self.verdict.outcome == "faster"

    @property
    def outputs(self) -> Outputs:
        """The kind of output: of the verdict, of the results, or else classes."""
        if self.verdict is not None:
            return self.verdict.outputs
        return outputs_of(self.results)

    @property
    def kind(self) -> Kind:
        return KINDS[self.outputs]

    @property
    def budget(self) -> BudgetKept | None:
        return None if self.verdict is None else self.verdict.budget

    @property
    def most_ms(self) -> float | None:
        """The latency that was asked for."""
        return None if self.budget is None else self.budget.latency_ms

    @property
    def speedup(self) -> SpeedUp | None:
        if self.verdict is not None:
            return self.verdict.speedup
        found = self.verified("speedup", plan="chosen")
        if found is None or found.low is None or found.high is None:
            return None
        level, n = found.level or 0.0, found.n or 0
        return SpeedUp(value=found.value, low=found.low, high=found.high, level=level, n=n)

    @property
    def cost(self) -> Value | None:
        """Of the plan: points lost, or without labels the percentage of what changed."""
        if self.verdict is not None:
            return None if self.verdict.cost is None else value_of(self.verdict.cost)
        if (drop := self.loss("drop", plan="chosen")) is not None:
            return value_of(drop)
        same = self.loss("agreement", plan="chosen")
        return None if same is None else changed(value_of(same))

    @property
    def agreement(self) -> Value | None:
        if self.verdict is not None:
            return None if self.verdict.agreement is None else value_of(self.verdict.agreement)
        same = self.loss("agreement", plan="chosen")
        return None if same is None else value_of(same)

    @property
    def timings(self) -> dict[Role, Milliseconds]:
        """Of both builds, from the pairs of the proof."""
        if self.verdict is not None and self.verdict.latency_ms:
            return dict(self.verdict.latency_ms)
        found: dict[Role, Milliseconds] = {}
        for role, tag in ROLES.items():
            row = self.verified("latency", plan=tag)
            if row is not None:
                p99 = row.tags.get("p99")
                p99 = float(p99) if isinstance(p99, int | float) and isfinite(p99) else None
                found[role] = Milliseconds(p50=row.value, p99=p99, n=row.n or 0)
        return found


def find(results: list[Result], name: str, **tags: Tag) -> list[Result]:
    return [r for r in results if r.name == name and all(r.tags.get(k) == v for k, v in tags.items())]


def value_of(found: Result | Value) -> Value:
    """In points or percent where it is a share."""
    value, low, high = (percent(found, v) for v in (found.value, found.low, found.high))
    return Value(
        name=found.name, value=value or 0.0, unit="points" if found.name == "drop" else "%", low=low, high=high,
        level=found.level, n=found.n,
    )  # fmt: skip


def changed(same: Value) -> Value:
    """What is left of 100 % by an agreement."""
    low = None if same.high is None else 100 - same.high
    high = None if same.low is None else 100 - same.low
    return same.model_copy(
        update={"name": "changed", "unit": "points", "value": 100 - same.value, "low": low, "high": high}
    )


def read_folder(folder: str | Path) -> Written:
    """
    Raises:
        InputError: where there is no folder, `plan.json` or `results.jsonl` is missing, or any file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; a report is made from a folder that `foveate fit` wrote")
    plan, results = Plan.load(folder / "plan.json"), read_results(folder / "results.jsonl")
    lacking = _why_no_verdict(folder / VERDICT)
    return Written(
        folder=folder,
        plan=plan,
        results=results,
        verdict=None if lacking else Verdict.load(folder),
        overlays=Overlays.load(folder) if (folder / OVERLAYS).exists() else None,
        lacking=lacking,
    )


def _why_no_verdict(path: Path) -> str:
    """Empty where there is one of this schema, or a file that is damaged, which reading it will say."""
    if not path.exists():
        return f"{path.name} is not in the folder"
    try:
        told = json.loads(read_text(path))
    except json.JSONDecodeError:
        return ""
    if isinstance(told, dict) and told.get("schema_version") != 2:
        return f"{path.name} was written by another version of foveate"
    return ""

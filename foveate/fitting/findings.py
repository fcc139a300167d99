"""Everything that a fit found, as one value; `rows` and `verdict` turn it into what is written."""

from dataclasses import dataclass

from foveate.fitting.baseline import Baseline, Dense
from foveate.fitting.bench import Build
from foveate.fitting.budget import Goal
from foveate.fitting.case import Case
from foveate.fitting.details import Details
from foveate.fitting.lane import Lane
from foveate.fitting.points import PointMeasurement
from foveate.fitting.proving import Proof
from foveate.fitting.request import Request


@dataclass(frozen=True)
class Findings:
    request: Request
    case: Case
    baseline: Baseline
    goal: Goal
    lanes: tuple[Lane, ...]  # the winner's, and the runner-up's where the clock allowed
    proof: Proof | None  # of the plan that is handed back
    points: tuple[PointMeasurement, ...]  # worth having, the dense build first
    details: Details
    stages: dict[str, float]  # seconds
    seconds: float

    @property
    def faster(self) -> bool:
        return self.proof is not None

    @property
    def build(self) -> Build:
        """What is handed back."""
        return self.details.given.build

    @property
    def dense_meets(self) -> bool:
        """Does the dense build that is handed back meet a limit in milliseconds?"""
        row = dense_within(self.baseline, self.goal)
        return row is not None

    @property
    def met(self) -> bool:
        """Is the budget met? A dense build that already meets a latency budget does."""
        return self.faster or self.dense_meets

    @property
    def reason(self) -> str:
        """Why there is no plan; empty where there is one."""
        if self.faster:
            return ""
        if (row := dense_within(self.baseline, self.goal)) is not None:
            return (
                f"the dense build takes {row.latency_ms:.3g} ms ({row.name}), within {self.goal.limit_ms:.4g} ms: "
                "nothing has to be reduced"
            )
        found = [lane.reason for lane in self.lanes if lane.reason] or ["nothing faster was found within the budget"]
        return f"budget ({self.request.budget}) not met: {found[0]}. The best dense build is written"


def dense_within(baseline: Baseline, goal: Goal) -> Dense | None:
    """The dense build that meets a limit in milliseconds as it is: full precision before int8; None where none does."""
    if goal.limit_ms is None:
        return None
    for row in (baseline.full, baseline.row):
        if row.latency_ms is not None and row.latency_ms <= goal.limit_ms:
            return row
    return None

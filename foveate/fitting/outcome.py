"""What `fit` hands back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from foveate.plans import Plan
from foveate.written import SpeedUp, Verdict


@dataclass(frozen=True)
class Outcome:
    """What `fit` hands back, and wrote to `folder`."""

    plan: Plan
    verdict: Verdict
    folder: Path

    @property
    def faster(self) -> bool:
        return self.verdict.outcome == "faster"

    @property
    def met(self) -> bool:
        """Is the budget met? A dense build that already meets a latency budget does."""
        return self.verdict.budget_met

    @property
    def reason(self) -> str:
        return self.verdict.reason

    @property
    def speedup(self) -> SpeedUp | None:
        return self.verdict.speedup

    @property
    def seconds(self) -> float:
        return self.verdict.seconds

    @property
    def note(self) -> str | None:
        return self.verdict.note

    @property
    def exit_code(self) -> Literal[0, 3]:
        return 0 if self.met else 3

    def to_dict(self) -> dict[str, Any]:
        """The verdict, and beside it the plan, its tokens after every block, and the folder."""
        return {
            **self.verdict.model_dump(mode="json"),
            "plan": self.plan.model_dump(mode="json"),
            "tokens": list(self.plan.schedule.after),
            "folder": str(self.folder),
        }

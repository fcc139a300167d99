"""What `fit` hands back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from foveate.hardware.timer import Speedup
from foveate.plans import Plan


@dataclass(frozen=True)
class Outcome:
    """What `fit` hands back, and wrote to `folder`."""

    faster: bool
    met: bool  # is the budget met? A dense build that already meets a latency budget does
    reason: str
    plan: Plan
    speedup: Speedup | None
    folder: Path
    seconds: float
    note: str | None

    @property
    def exit_code(self) -> Literal[0, 3]:
        return 0 if self.met else 3

    def to_dict(self) -> dict[str, Any]:
        return {
            "outcome": "faster" if self.faster else "dense",
            "budget_met": self.met,
            "reason": self.reason,
            "note": self.note,
            "plan": self.plan.model_dump(mode="json"),
            "tokens": list(self.plan.schedule.after),
            "speedup": None if self.speedup is None else vars_of(self.speedup),
            "folder": str(self.folder),
            "seconds": round(self.seconds, 1),
        }


def vars_of(speedup: Speedup) -> dict[str, float | int]:
    return {k: getattr(speedup, k) for k in ("value", "low", "high", "level", "n")}

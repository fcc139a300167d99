"""From a target to plans worth building: its latency profile, and the planner's front on the search photographs."""

from collections.abc import Sequence
from dataclasses import dataclass

from foveate.evaluate.answers import on_device
from foveate.facts import Facts
from foveate.fitting.budget import Goal
from foveate.fitting.case import Case
from foveate.fitting.request import Request
from foveate.fitting.stages import Progress
from foveate.planning import Candidate, plan_candidates, plan_pomt
from foveate.profiling import Profile, profile
from foveate.target import Target

PROFILED = 3  # of the methods asked for, whose own cost is measured; others are taken to cost as much
PLANNED_ON = 160  # photographs a search scores plans on: more plans on fewer photographs find better ones


@dataclass(frozen=True)
class Search:
    """What is known of plans before one is built."""

    target: Target
    profile: Profile
    candidates: tuple[Candidate, ...]
    reason: str | None = None  # why there are none


@dataclass(frozen=True)
class Pace:
    """Seconds that the parts of a fit may take."""

    profile: float = 30.0
    plan: float = 40.0
    build: float = 60.0  # plans, each looked at on all photographs of the search
    verify: float = 40.0
    points: float = 60.0

    @classmethod
    def within(cls, seconds: float | None, needed: float) -> "Pace":
        """The usual pace, or that of a fit that has `seconds` left, of which `needed` go into what every fit does."""
        if seconds is None:
            return cls()
        whole = cls()
        share = max(0.02, min(4.0, (seconds - needed) / (whole.profile + whole.plan + whole.build + whole.verify)))
        return cls(*(share * part for part in (whole.profile, whole.plan, whole.build, whole.verify, whole.points)))


def profiled(facts: Facts, asked: Sequence[str] | None) -> tuple[str, ...] | None:
    """Methods whose own cost a profile measures; None for those that it takes by itself."""
    from foveate.methods import METHODS

    if asked is None or facts.turns:
        return None
    return tuple(m for m in asked if facts.has_class_token or "class_row" not in METHODS[m].needs)[:PROFILED] or None


def search(
    case: Case, request: Request, target: Target, goal: Goal, dense_ms: float, pace: Pace, progress: Progress
) -> Search:
    """Profile the target, and plan for it.

    Args:
        dense_ms: of the dense build on this target, which ties the profile's milliseconds to measured ones.
    """
    found = profile(
        case.model, target, methods=profiled(case.facts, request.methods), fresh=request.fresh, seconds=pace.profile,
        progress=lambda done, total, text: progress("profile", min(1.0, done / max(total, 1)), text),
    )  # fmt: skip
    few, labels = case.search.x[:PLANNED_ON], case.search.sample.labels
    labels = None if labels is None else labels[:PLANNED_ON]
    if request.planner == "pomt":
        with on_device(case.model, target.device) as model:
            plans = plan_pomt(
                model, few, labels, found.table, methods=request.methods, alpha=request.alpha,
                progress=lambda share, text: progress("plan", share, text),
            )  # fmt: skip
        none = f"POMT's utility (alpha {request.alpha:g}) is highest where all tokens are kept"
        return Search(target, found, tuple(plans), None if plans else none)
    limit = None if goal.limit_ms is None else goal.limit_ms * found.dense_ms / dense_ms
    with on_device(case.model, target.device) as model:
        plans = plan_candidates(
            model, few, labels, found.table, methods=request.methods, outputs=case.facts.outputs,
            max_drop=goal.points if limit is None else None, latency_ms=limit, budget_seconds=pace.plan,
            wide=request.points is not None, seed=request.seed,
            progress=lambda share, text: progress("plan", share, text),
        )  # fmt: skip
    return Search(target, found, tuple(plans))

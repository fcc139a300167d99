"""A plan built and looked at: how fast where it will run, and what it loses on the photographs of the search."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from foveate.evaluate.evidence import Kept, judge_budget
from foveate.fitting.bench import Bench, Build, Seat, share_of
from foveate.fitting.budget import Goal
from foveate.fitting.case import Case, Look
from foveate.planning import Candidate
from foveate.target import Precision


@dataclass(frozen=True)
class Trial:
    """A candidate, built."""

    candidate: Candidate
    seat: Seat  # where the build is
    build: Build
    share: float  # of the dense baseline's latency
    look: Look  # on the photographs of the search
    kept: Kept  # the budget, as far as those photographs and the other trials tell

    @property
    def label(self) -> str:
        return self.seat.label


def run_trial(
    candidate: Candidate,
    label: str,
    bench: Bench,
    precision: Precision,
    base: Seat,
    case: Case,
    goal: Goal,
    planner: str | None = None,
) -> Trial:
    """Build `candidate` on `bench` and look at it.

    Args:
        precision: of the build.
        base: the dense baseline, whose latency the share is of.
    """
    build = bench.add(label, candidate.steps, planner=planner, precision=precision)
    seat = Seat(bench, label)
    share = share_of(base, seat)
    look = case.search.look(bench.outputs(label, case.search.x))
    kept = judge_budget(goal.points, look.answers)
    return Trial(candidate, seat, build, share, look, kept)


def judged_together(trials: Sequence[Trial], goal: Goal) -> list[Trial]:
    """The same, each judged by what all of them lost: what a distance costs is known the better the more there are."""
    pool = [t.look.answers for t in trials]
    return [
        replace(t, kept=judge_budget(goal.points, t.look.answers, pool=[a for a in pool if a is not t.look.answers]))
        for t in trials
    ]

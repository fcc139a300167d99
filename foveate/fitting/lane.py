"""One target's way from a search to a proof: build what is worth it, put the best to the proof until one holds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foveate.fitting.bench import Seat
from foveate.fitting.budget import Goal
from foveate.fitting.case import Case
from foveate.fitting.choosing import WORTH_BUILDING, more_careful, next_to_build, ranked
from foveate.fitting.proving import VERIFIED, Proof, prove
from foveate.fitting.request import Request
from foveate.fitting.searching import Pace, Search
from foveate.fitting.stages import Progress
from foveate.fitting.trials import Trial, judged_together, run_trial
from foveate.planners.pareto import spread
from foveate.planning import Candidate

MOST_BUILT = 6  # plans, on one target
LEAST_BUILT = 2  # however slow building is


@dataclass(frozen=True)
class Lane:
    """What was found on one target."""

    search: Search
    dense_ms: float  # of the dense build on this target
    trials: tuple[Trial, ...]
    proofs: tuple[Proof, ...]

    @property
    def proven(self) -> Proof | None:
        return next((p for p in self.proofs if p.holds), None)

    @property
    def reason(self) -> str:
        """Why nothing was proven."""
        if self.search.reason is not None:
            return self.search.reason
        if self.proofs:
            return self.proofs[-1].refused or ""
        if not self.search.candidates:
            return "the search found no plan"
        if not self.trials:
            return (
                f"of {len(self.search.candidates)} plans scored none that may keep the budget is expected to be "
                f"{1 - WORTH_BUILDING:.0%} faster"
            )
        return f"of {len(self.search.candidates)} plans scored and {len(self.trials)} built none kept the budget"


def build_trials(
    found: Search, case: Case, request: Request, goal: Goal, dense: Seat, base: Seat, dense_ms: float, pace: Pace,
    progress: Progress,
) -> tuple[Trial, ...]:  # fmt: skip
    """Build what is worth a look, one after the other, each chosen knowing what became of those before.

    Args:
        dense: the dense build on the target of `found`; base: the baseline, which shares are of.
    """
    trials, began = list[Trial](), time.monotonic()
    total = request.points or MOST_BUILT

    def build(candidate: Candidate) -> None:
        progress("measure", min(1.0, len(trials) / total), ", ".join(map(str, candidate.steps)))
        trials[:] = with_another(candidate, trials, found, case, request, goal, dense, base)

    def time_left() -> bool:
        return room_for_more(len(trials), time.monotonic() - began, pace.build)

    if request.points is not None:
        able = [c for c in found.candidates if c.steps]
        for candidate in spread(able, request.points - 1, lambda c: c.predicted_ms):
            build(candidate)
    most = len(trials) + MOST_BUILT
    while (request.points is None or not goal.by_loss) and len(trials) < most and time_left():
        candidate = next_to_build(
            found.candidates, trials, goal,
            dense_ms=dense_ms, predicted_dense_ms=found.profile.dense_ms, unseen=len(case.unseen),
        )  # fmt: skip
        if candidate is None:
            break
        build(candidate)
    return tuple(trials)


def with_another(
    candidate: Candidate, trials: Sequence[Trial], found: Search, case: Case, request: Request, goal: Goal, dense: Seat,
    base: Seat,
) -> list[Trial]:  # fmt: skip
    """The trials and the candidate's, each judged by what all of them lost."""
    precision = found.target.precision
    label = f"candidate {precision} {len(trials) + 1}"
    made = run_trial(candidate, label, dense.bench, precision, base, case, goal, request.planner)
    return judged_together([*trials, made], goal)


def careful_builder(
    found: Search, case: Case, request: Request, goal: Goal, dense: Seat, base: Seat
) -> Callable[[Sequence[Trial]], Trial | None]:
    """Builds a plan that moves the outputs less than those refused, if the search knows one."""

    def build(trials: Sequence[Trial]) -> Trial | None:
        if request.points is not None:
            return None
        chosen = more_careful(found.candidates, trials, goal, found.profile.dense_ms, len(case.unseen))
        if chosen is None:
            return None
        return with_another(chosen, trials, found, case, request, goal, dense, base)[-1]

    return build


def room_for_more(built: int, spent: float, seconds: float) -> bool:
    """Is there time for another that takes as long as the `built` ones? `LEAST_BUILT` are built in any case."""
    return built < LEAST_BUILT or spent * (built + 1) / built <= seconds


def put_to_the_proof(
    trials: Sequence[Trial], case: Case, goal: Goal, base: Seat, dense_ms: float, pace: Pace, progress: Progress,
    lanes: int = 1, another: Callable[[Sequence[Trial]], Trial | None] = lambda trials: None,
) -> tuple[tuple[Trial, ...], tuple[Proof, ...]]:  # fmt: skip
    """The most promising one after the other, until one holds; all trials then, and the proofs.

    Args:
        lanes: how many targets may be tried until a plan holds on one of them, which every interval has to pay for.
        another: builds one more, after all that were built are refused; None where none is worth it.
    """
    waiting, proofs = ranked(trials, goal, dense_ms)[:VERIFIED], list[Proof]()
    every = list(trials)
    while len(proofs) < VERIFIED:
        if not waiting:
            if (more := another(every)) is None:
                break
            every.append(more)
            waiting = ranked([more], goal, dense_ms)  # none, where it is seen to lose too much
            continue
        trial = waiting.pop(0)
        progress("verify", 0.0, ", ".join(map(str, trial.candidate.steps)))
        proofs.append(
            prove(
                trial, base, case, goal, claims=VERIFIED * lanes, pool=every, seconds=pace.verify,
                progress=lambda share, text: progress("verify", share, text),
            )
        )  # fmt: skip
        if proofs[-1].holds:
            break
    return tuple(every), tuple(proofs)

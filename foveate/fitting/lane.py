"""One target's way from a search to a proof: build the shortlist, put the best to the proof until one holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foveate.fitting.bench import Seat
from foveate.fitting.budget import Goal
from foveate.fitting.case import Case
from foveate.fitting.choosing import WORTH_BUILDING, ranked, shortlist
from foveate.fitting.proving import VERIFIED, Proof, prove
from foveate.fitting.request import Request
from foveate.fitting.searching import Pace, Search
from foveate.fitting.stages import Progress
from foveate.fitting.trials import Trial, run_trial
from foveate.planners.pareto import spread
from foveate.planning import Candidate

SHORTLIST = 6  # plans built and measured
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
    """Build what is worth a look. Under a limit the second half is picked knowing how far off predictions were.

    Args:
        dense: the dense build on the target of `found`; base: the baseline, which shares are of.
    """
    trials: list[Trial] = []
    looking = dense_ms / 1e3 * len(case.search) / found.target.batch  # seconds
    total = request.points or SHORTLIST

    def build(candidate: Candidate) -> None:
        label = f"candidate {found.target.precision} {len(trials) + 1}"
        progress("measure", min(1.0, len(trials) / total), ", ".join(map(str, candidate.steps)))
        pool = [t.look.answers for t in trials]
        precision = found.target.precision
        trials.append(run_trial(candidate, label, dense.bench, precision, base, case, goal, pool, request.planner))

    if request.points is not None:
        able = [c for c in found.candidates if c.steps]
        for candidate in spread(able, request.points - 1, lambda c: c.predicted_ms):
            build(candidate)
    if request.points is None or not goal.by_loss:
        for count in (SHORTLIST,) if goal.by_loss else (SHORTLIST // 2, SHORTLIST // 2):
            chosen = shortlist(
                found.candidates, trials, goal,
                dense_ms=dense_ms, predicted_dense_ms=found.profile.dense_ms, most=count,
            )  # fmt: skip
            for candidate in by_clock(chosen, dense.build.seconds + looking, pace.build):
                build(candidate)
    return tuple(trials)


def by_clock(chosen: Sequence[Candidate], each: float, seconds: float) -> Sequence[Candidate]:
    """Fewer of them where a trial takes long (`each` seconds; int8's do): evenly taken, `LEAST_BUILT` in any case."""
    able = max(LEAST_BUILT, int(seconds / max(each, 1e-3)))
    if able >= len(chosen):
        return chosen
    return [chosen[i] for i in np.linspace(0, len(chosen) - 1, able).round().astype(int)]


def put_to_the_proof(
    trials: Sequence[Trial], case: Case, goal: Goal, base: Seat, dense_ms: float, pace: Pace, progress: Progress,
    lanes: int = 1,
) -> tuple[Proof, ...]:  # fmt: skip
    """The most promising one after the other, until one holds.

    Args:
        lanes: how many targets may be tried until a plan holds on one of them, which every interval has to pay for.
    """
    tried, proofs = ranked(trials, goal, dense_ms)[:VERIFIED], list[Proof]()
    for trial in tried:
        progress("verify", 0.0, ", ".join(map(str, trial.candidate.steps)))
        proofs.append(
            prove(
                trial,
                base,
                case,
                goal,
                claims=len(tried) * lanes,
                pool=trials,
                seconds=pace.verify,
                progress=lambda share, text: progress("verify", share, text),
            )
        )
        if proofs[-1].holds:
            break
    return tuple(proofs)

"""The dense baseline: the fastest dense build on this device, of any runtime and precision that keeps the budget."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from foveate.errors import NotAvailable, one_of
from foveate.fitting.bench import Seat
from foveate.fitting.case import Case
from foveate.fitting.contest import Contest, Dense
from foveate.fitting.request import Request
from foveate.hardware.device import default_threads
from foveate.runtimes import RUNTIMES, sharing_graphs
from foveate.target import PRECISIONS, Precision, Target

NEAR = 1.15  # times the latency of another: taking turns may still turn the order round


@dataclass(frozen=True)
class Baseline:
    """The fastest dense build that keeps the budget; `ms` is frozen here, and every limit is computed from it once."""

    seat: Seat
    row: Dense
    ms: float
    full: Dense  # the fastest in full precision
    full_seat: Seat | None  # it, where its process is still alive
    runner_up: Dense | None
    runner_up_seat: Seat | None  # where its process is still alive
    table: tuple[Dense, ...]
    narrowed: str  # the runtime or precision that the user named, "" where every build here was a contender

    @property
    def target(self) -> Target:
        return self.seat.build.plan.target

    @property
    def claim(self) -> str:
        """What may be said of it."""
        if not self.narrowed:
            return "the best dense build on this machine"
        return f"the best dense {self.narrowed} build"


def contenders(request: Request) -> tuple[list[tuple[str, Precision]], list[Dense]]:
    """(runtime, precision) pairs to try, full precision first, and those not tried with the reason.

    Raises:
        InputError: for an unknown runtime, or where nothing that was asked for is available here.
    """
    if request.runtime != "auto" and request.runtime not in RUNTIMES:
        raise one_of("runtime", request.runtime, [*RUNTIMES, "auto"])
    kind = Target.of(device=request.device).kind
    chosen: list[tuple[str, Precision]] = []
    others: list[Dense] = []
    for name in RUNTIMES:
        for precision in PRECISIONS:
            if precision not in RUNTIMES[name].kinds:
                continue
            reason = None
            if request.runtime not in ("auto", name) or precision not in request.precisions:
                reason = "not tried: the runtime or the precision was named"
            reason = reason or RUNTIMES[name].why_not(precision, request.device)
            if reason is None and name == "compile" and request.runtime == "auto" and kind == Target().kind:
                reason = "left out of auto on a CPU: slow to build; ask for it with --runtime compile"
            if reason is None:
                chosen.append((name, precision))
            else:
                others.append(Dense(name, precision, reason=reason))
    if not chosen:
        asked = [d for d in others if request.runtime in ("auto", d.runtime) and d.precision in request.precisions]
        known = "; ".join(f"{d.name}: {d.reason}" for d in asked)
        raise NotAvailable(known or f"--runtime {request.runtime} has no {request.precision} on {request.device}")
    return sorted(chosen, key=lambda pair: pair[1] == "int8"), others


def find_baseline(
    case: Case,
    request: Request,
    pairs: Sequence[tuple[str, Precision]],
    untried: Sequence[Dense],
    folder: Path,
    stack: ExitStack,
    progress: Callable[[float, str], None],
    *,
    rounds: int = 2,
    seconds: float = 0.5,
) -> Baseline:
    """Build the dense model everywhere, weigh what it loses, take turns timing; the fastest that keeps the budget wins.

    What the first look shows to be `BEATEN` takes no turns. The processes of the winner, of the fastest in full
    precision and of the runner-up stay alive in `stack`; the others' end here.

    Raises:
        NotAvailable: no runtime could run the dense model.
    """
    stack.enter_context(sharing_graphs())  # one export serves every runtime that takes ONNX
    contest = Contest(case, request, folder, request.threads or default_threads())
    stack.callback(lambda: contest.keep_only(()))
    for i, (runtime, precision) in enumerate(pairs):
        progress(i / (len(pairs) + 2), f"dense build: {runtime} {precision}")
        contest.enter(runtime, precision)
        contest.keep_only({pair[0] for pair in (*contest.alive, *pairs[i + 1 :])})
    progress(len(pairs) / (len(pairs) + 2), "dense builds: what they lose")
    contest.weigh(request.budget.points, within=NEAR)
    progress((len(pairs) + 1) / (len(pairs) + 2), "dense builds: taking turns")
    contest.take_turns(rounds, seconds)
    contest.weigh(request.budget.points)  # should turns have brought forward one that was not
    order = contest.order()
    if not order:
        reasons = "; ".join(f"{r.name}: {r.reason}" for r in contest.rows.values())
        raise NotAvailable(f"no runtime could run the dense model within the budget: {reasons}")
    first = order[0]
    full = next((pair for pair in order if pair[1] != "int8"), None)
    second = order[1] if len(order) > 1 else None
    contest.keep_only({pair[0] for pair in (first, full, second) if pair is not None})
    rows, alive = contest.rows, contest.alive
    ms = rows[first].latency_ms
    assert ms is not None
    return Baseline(
        seat=alive[first], row=rows[first], ms=ms,
        full=rows[full or first], full_seat=alive.get(full or first),
        runner_up=None if second is None else rows[second],
        runner_up_seat=None if second is None else alive[second],
        table=(*rows.values(), *untried), narrowed=request.narrowed,
    )  # fmt: skip

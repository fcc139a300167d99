"""Every method at the same latency, and the planner's own choice: one table, one plot."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from foveate.adapters import TURN
from foveate.commands.comparison import Comparison, open_comparison
from foveate.commands.matching import LatencyMatcher, three_blocks
from foveate.errors import InputError
from foveate.fitting.baseline import contenders, find_baseline
from foveate.fitting.bench import Seat, Timing, by_turns, origin
from foveate.fitting.case import Case, Look, prepare
from foveate.fitting.request import BUNDLED, Request, as_tuple
from foveate.fitting.searching import PLANNED_ON
from foveate.fitting.stages import Progress, Say, quiet, silent, spoken
from foveate.methods import METHODS
from foveate.planning import plan_candidates
from foveate.profiling import Profile, profile
from foveate.result import Result, Tag
from foveate.staging import scratch

LEVELS = (0.7, 0.85, 0.55)
FIRST = ("tome", "topk", "foveal", "pomt", "evit")  # of all methods, those that most will look for
LEAST_SECONDS = 30.0


def compare(
    name: str | nn.Module = BUNDLED,
    *,
    levels: Sequence[float] = LEVELS,
    methods: Sequence[str] | None = None,
    out: str | Path = "foveate-compare",
    pairs: int = 100,
    seconds: float = 300.0,
    fresh: bool = False,
    progress: Progress = quiet,
    say: Say = silent,
    **asked: Any,
) -> list[dict[str, Any]]:
    """Put every method, in its three-block schedule, and the planner at each of `levels` of the dense latency.

    The single methods reduce in the blocks at 1/4, 1/2 and 3/4 of the depth, by the same factor each. Levels are
    measured, not predicted: counts are corrected by what a build takes until it lands at most a point above the level
    and two below, in four builds at most, after which the slowest below the level is taken; of the planner's candidates
    the one closest to the dense model counts of those that land. Quality is what the built file answers on photographs
    that the planner did not see.

    Every row is written into `out` as it comes (compare.json, results.jsonl, compare.html), and the same call goes on
    where an earlier one was ended, by its clock or otherwise.

    Args:
        levels: shares of the dense latency, the one that matters most first.
        seconds: all of it, about: what does not fit is left for the next call, and told.
        fresh: begin anew, whatever `out` holds.
        asked: as in `foveate.fitting.request.Request`: weights, data, device, runtime, precision, batch, threads ...

    Returns:
        The rows, by level and method.
    """
    if bad := [v for v in levels if not 0.1 <= v < 1]:
        raise InputError(f"--level is {bad[0]:g}; allowed: 0.1 to below 1 (a share of the dense latency)")
    if not seconds >= LEAST_SECONDS:
        raise InputError(f"--seconds is {seconds:g}; allowed: {LEAST_SECONDS:g} or more")
    began, folder = time.monotonic(), Path(out)
    request = Request(name=name, methods=as_tuple(methods), out=folder, **asked)
    request.checked_methods()  # an unknown name is told before anything is measured
    tried, untried = contenders(request)
    case = prepare(request, progress, say, share=0.4)
    able = able_methods(case, request)
    state = open_comparison(folder, case, request, {"pairs": pairs}, fresh)
    order = ("pareto", *able) if methods is None else (*able, "pareto")  # what was asked for by name comes first
    wanted = [(level, method) for level in levels for method in order]
    left = [each for each in wanted if each not in state.done]
    say(f"{len(wanted)} rows: {len(levels)} levels, {len(able)} methods and the planner" + told_done(wanted, left))
    if not left:
        return in_order(state, wanted)
    if state.against is not None:  # every row is against the same dense build
        tried = [state.against]
    with scratch() as tmp, ExitStack() as stack:
        baseline = find_baseline(
            case, request, tried, untried, tmp, stack, lambda share, text: progress("dense", share, text)
        )
        dense = baseline.seat
        state = state.model_copy(update={"against": (baseline.target.runtime, baseline.target.precision)})
        found = profile(
            case.model, baseline.target, seconds=min(30.0, 0.1 * seconds),
            progress=lambda done, total, text: progress("profile", min(1.0, done / max(total, 1)), text),
        )  # fmt: skip
        plan_seconds = min(60.0, 0.08 * seconds)
        table = Rows(case, request, dense, found, pairs, plan_seconds, progress)
        clock = RowClock(seconds, began, dense.build.seconds + 2.0, plan_seconds)
        for number, (level, method) in enumerate(left):
            if not clock.room(method):
                break
            share = (len(wanted) - len(left) + number) / len(wanted)
            ahead = spoken(clock.ahead(m for _, m in left[number:]))
            progress("measure", share, f"{method} at {level:g} of the dense latency · {ahead} left")
            with clock.taking(method):
                measured = table.row(level, method)
            if measured is None:
                say(f"{method} cannot reach {level:g} of the dense latency")
                measured = {"level": level, "method": method, "speedup": None}, []
            state = state.with_row(*measured)
            rest = len(left) - number - 1
            state.write(folder, None if not rest else f"{len(wanted) - rest} of {len(wanted)} rows so far")
    if rest := [each for each in left if each not in state.done]:
        more = clock.ahead(method for _, method in rest)
        say(
            f"left for time: {len(rest)} of {len(wanted)} rows ({', '.join(f'{m} at {v:g}' for v, m in rest[:3])}"
            f"{' ...' if len(rest) > 3 else ''}); the same command goes on with them: about {spoken(more)} more"
        )
    return in_order(state, wanted)


def told_done(wanted: Sequence[object], left: Sequence[object]) -> str:
    done = len(wanted) - len(left)
    return f"; {done} are there from before" if done else ""


def in_order(state: Comparison, wanted: Sequence[tuple[float, str]]) -> list[dict[str, Any]]:
    """The rows that were measured and asked for; those that no build reached are none."""
    rows = {(row["level"], row["method"]): row for row in state.rows if row["speedup"] is not None}
    return [rows[each] for each in sorted(wanted, key=lambda each: -each[0]) if each in rows]


class RowClock:
    """How long rows take, by what they are, and whether another fits."""

    def __init__(self, seconds: float, began: float, a_build: float, plan: float) -> None:
        self.end = began + seconds
        self.expected = {False: 3.0 * a_build, True: plan + 5.0 * a_build}  # by whether the planner makes the row
        self.took: dict[bool, list[float]] = {False: [], True: []}

    def each(self, method: str) -> float:
        planner = method == "pareto"
        return float(np.mean(self.took[planner])) if self.took[planner] else self.expected[planner]

    def ahead(self, methods: Iterable[str]) -> float:
        return sum(self.each(method) for method in methods)

    def room(self, method: str) -> bool:
        """One row is measured in any case."""
        return not any(self.took.values()) or time.monotonic() + self.each(method) <= self.end

    @contextmanager
    def taking(self, method: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.took[method == "pareto"].append(time.monotonic() - began)


@dataclass(frozen=True)
class Rows:
    """What every row is measured with."""

    case: Case
    request: Request
    dense: Seat
    found: Profile
    pairs: int
    plan_seconds: float
    progress: Progress
    matcher: LatencyMatcher = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "matcher", LatencyMatcher(self.dense, self.found))

    def row(self, level: float, method: str) -> tuple[dict[str, Any], list[Result]] | None:
        """None where no build is as fast."""
        bench = self.dense.bench
        if method == "pareto":
            label = planned(self.case, self.request, self.found, self.matcher, level, self.plan_seconds, self.progress)
        else:
            label = self.matcher.near(level, partial(three_blocks, self.case.facts, method, self.found.table))
        if label is None:
            return None
        seat = Seat(bench, label)
        timing = by_turns(self.dense, seat, self.pairs)
        look = self.case.unseen.look(bench.outputs(label, self.case.unseen.x))
        row, measured = described(self.case, seat, self.dense, timing, look, self.found, level, method)
        bench.drop(label)
        source = origin(bench, self.request.seed)
        return row, [r.model_copy(update={"origin": source}) for r in measured]


def able_methods(case: Case, request: Request) -> list[str]:
    """Those asked for (all by default) that this model allows."""
    known = [*FIRST, *(m for m in METHODS if m not in FIRST)]  # the clock may leave the last ones for later
    chosen = [TURN] if case.facts.turns else list(request.methods or known)
    return [m for m in chosen if case.facts.has_class_token or "class_row" not in METHODS[m].needs]


def planned(
    case: Case, request: Request, found: Profile, matcher: LatencyMatcher, level: float, seconds: float,
    progress: Progress,
) -> str | None:  # fmt: skip
    """The planner's own choice at a level; the build's label."""
    labels = case.search.sample.labels
    best = plan_candidates(
        case.model, case.search.x[:PLANNED_ON], None if labels is None else labels[:PLANNED_ON], found.table,
        methods=request.methods, outputs=case.facts.outputs, budget_seconds=seconds, seed=request.seed,
        latency_ms=found.dense_ms * level * min(1.0, matcher.optimism),
        progress=lambda share, text: progress("plan", share, text),
    )  # fmt: skip
    return matcher.best([c for c in best if c.steps], level)


def described(
    case: Case, seat: Seat, dense: Seat, timing: Timing, look: Look, found: Profile, level: float, method: str
) -> tuple[dict[str, Any], list[Result]]:
    """A row for people, and its figures as results."""
    plan, q = seat.build.plan, look.quality
    s = timing.speedup(dense.label, seat.label, 0.99)
    gmacs, tokens = case.facts.macs(plan.schedule) / 1e9, list(plan.schedule.after)
    tags: dict[str, Tag] = {
        "method": method, "level": level, "runtime": plan.target.runtime, "precision": plan.target.precision,
        "batch": plan.target.batch, "tokens": tokens, "plan": plan.summary(), "outputs": q.kind,
    }  # fmt: skip
    results = [r.model_copy(update={"tags": {**r.tags, **tags, "split": "unseen"}}) for r in q.results()]
    ms = timing.of(seat.label)
    results += [
        Result(name="speedup", value=s.value, unit="x", low=s.low, high=s.high, level=s.level, n=s.n, tags=tags),
        Result(name="latency", value=float(np.median(ms)), unit="ms", n=len(ms), tags=tags),
        Result(name="macs", value=gmacs, unit="GMAC", tags=tags),
    ]
    drop, score = q.drop, q.score
    row = {
        "level": level, "method": method, "speedup": s.value, "low": s.low, "high": s.high, "outputs": q.kind,
        "agreement": q.agreement.value, "loss": q.distance.value, "loss_low": q.distance.low,
        "loss_high": q.distance.high, "drop": None if drop is None else drop.value,
        "drop_low": None if drop is None else drop.low, "drop_high": None if drop is None else drop.high,
        "score": None if score is None else score.value, "gmacs": gmacs, "tokens": tokens,
        "images": len(case.unseen), "predicted": found.predict(plan) / found.dense_ms, "measured": 1 / s.value,
        "steps": [p.model_dump() for p in plan.steps],
    }  # fmt: skip
    return row, results

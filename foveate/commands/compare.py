"""Every method at the same latency, and the planner's own choice: one table, one plot."""

import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from foveate.adapters import TURN
from foveate.commands.matching import LatencyMatcher, three_blocks
from foveate.errors import InputError
from foveate.fitting.baseline import contenders, find_baseline
from foveate.fitting.bench import Seat, Timing, by_turns, origin
from foveate.fitting.case import Case, Look, prepare
from foveate.fitting.request import BUNDLED, Request, as_tuple
from foveate.fitting.searching import PLANNED_ON
from foveate.fitting.stages import Progress, Say, quiet, silent
from foveate.methods import METHODS
from foveate.planning import plan_candidates
from foveate.profiling import Profile, profile
from foveate.result import Result, Tag, write_results

log = logging.getLogger(__name__)


def compare(
    name: str = BUNDLED,
    *,
    levels: Sequence[float] = (0.85, 0.7, 0.55),
    methods: Sequence[str] | None = None,
    out: str | Path = "foveate-compare",
    pairs: int = 100,
    seconds: float = 60.0,
    progress: Progress = quiet,
    say: Say = silent,
    **asked: Any,
) -> list[dict[str, Any]]:
    """Put every method, in its three-block schedule, and the planner at each of `levels` of the dense latency.

    The single methods reduce in the blocks at 1/4, 1/2 and 3/4 of the depth, by the same factor each. Levels are
    measured, not predicted: counts are corrected by what a build takes until it lands at most a point above the level
    and two below, in four builds at most, after which the slowest below the level is taken; of the planner's candidates
    the one closest to the dense model counts of those that land. Quality is what the built file answers on photographs
    that the planner did not see. Returns the rows and writes results.jsonl and compare.html into `out`.

    Args:
        seconds: of every search of the planner.
        asked: as in `foveate.fitting.request.Request`: weights, data, device, runtime, precision, batch, threads ...
    """
    if bad := [v for v in levels if not 0.1 <= v < 1]:
        raise InputError(f"--level is {bad[0]:g}; allowed: 0.1 to below 1 (a share of the dense latency)")
    request = Request(name=name, methods=as_tuple(methods), out=Path(out), **asked)
    request.checked_methods()  # an unknown name is told before anything is measured
    tried, untried = contenders(request)
    case = prepare(request, progress, say, share=0.4)
    able = able_methods(case, request)
    rows: list[dict[str, Any]] = []
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="foveate-") as tmp, ExitStack() as stack:
        baseline = find_baseline(
            case, request, tried, untried, Path(tmp), stack, lambda share, text: progress("dense", share, text)
        )
        dense, bench = baseline.seat, baseline.seat.bench
        found = profile(
            case.model, baseline.target,
            progress=lambda done, total, text: progress("profile", min(1.0, done / max(total, 1)), text),
        )  # fmt: skip
        source, matcher = origin(bench, request.seed), LatencyMatcher(dense, found)
        total = len(levels) * (len(able) + 1)
        for level in levels:
            for method in [*able, "pareto"]:
                progress("measure", len(rows) / total, f"{method} at {level:g} of the dense latency")
                if method == "pareto":
                    label = planned(case, request, found, matcher, level, seconds, progress)
                else:
                    label = matcher.near(level, partial(three_blocks, case.facts, method, found.table))
                if label is None:
                    log.warning("%s cannot reach %g of the dense latency", method, level)
                    continue
                timing = by_turns(dense, Seat(bench, label), pairs)
                look = case.unseen.look(bench.outputs(label, case.unseen.x))
                row, measured = described(case, Seat(bench, label), dense, timing, look, found, level, method)
                rows.append(row)
                results += [r.model_copy(update={"origin": source}) for r in measured]
                bench.drop(label)
    out = Path(out)
    write_results(out / "results.jsonl", results)
    from foveate.report.compare import write_comparison

    write_comparison(results, out / "compare.html")
    return rows


def able_methods(case: Case, request: Request) -> list[str]:
    """Those asked for (all by default) that this model allows."""
    chosen = [TURN] if case.facts.turns else list(request.methods or METHODS)
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

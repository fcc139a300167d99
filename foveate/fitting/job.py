"""The main job as a line of values: each stage is a function from what was found before to what it finds.

Request -> Case -> Baseline -> Goal -> Lane (Search, Trials, Proofs) -> Findings -> files, Outcome
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from foveate.fitting.baseline import Baseline, contenders, find_baseline
from foveate.fitting.bench import Seat
from foveate.fitting.budget import Budget, Goal
from foveate.fitting.case import Case, prepare
from foveate.fitting.details import examine
from foveate.fitting.findings import Findings, dense_within
from foveate.fitting.lane import Lane, build_trials, careful_builder, put_to_the_proof
from foveate.fitting.outcome import Outcome
from foveate.fitting.points import PointMeasurement, measure_points, worth_having
from foveate.fitting.request import BUNDLED, Request, as_tuple
from foveate.fitting.searching import Pace, search
from foveate.fitting.stages import Progress, Say, StageClock, quiet, silent, spoken
from foveate.fitting.verdict import verdict_of
from foveate.fitting.writing import write
from foveate.preprocess import Preprocess
from foveate.staging import scratch

A_BUILD = 6.0  # seconds, before the first is made
PARTS = 6  # of a model that a profile builds, each about as long as the model
AFTER = 8.0  # seconds, for what follows the proof
WORTH_A_SEARCH = 1.25  # a runner-up's latency over the winner's, up to which a plan on it may still win


def fit(
    name: str | nn.Module = BUNDLED,
    *,
    weights: str | Path | None = None,
    random_weights: bool = False,
    allow_pickle: bool = False,
    outputs: str | None = None,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    data: str | Path | None = None,
    budget: Budget | None = None,
    out: str | Path = "foveate-out",
    methods: Sequence[str] | None = None,
    progress: Progress = quiet,
    say: Say = silent,
    options: dict[str, Any] | None = None,
    **asked: Any,
) -> Outcome:
    """Fit a vision transformer to this machine and write what to deploy into `out`.

    Args:
        name: whatever `foveate.load` takes: a timm model's name, the bundled "clothing_vit", a folder, a model object.
        weights, random_weights, allow_pickle, outputs, preprocess, classes: as in `foveate.load`.
        data: photographs, labelled or not (see `foveate.evaluate.open_images`); None takes the bundled ones.
        budget: what may be lost, or how fast it must be; by default one point.
        methods: names the search may use; by default all sensible ones.
        progress: told what is under way: (stage, share done of it, text). say: told lines that should stay.
        options: further arguments of the model's constructor, for instance `{"img_size": 384}`.
        asked: as in `foveate.fitting.request.Request`:
            device, runtime, precision, batch, threads: where it will run; "auto" looks for the fastest dense build.
            planner: "pareto", or "pomt" for comparison: one cut by its utility, `alpha` being the weight of latency.
            images: at most so many photographs are used, drawn with `seed`.
            points: look over the whole range of latency, and measure so many operating points, the dense build among
                them; those worth having are written beside the plan (`foveate.elastic.Frontier`).
            fresh: measure the profile again instead of reading it from the cache.
            seconds: how long all of it should take, about; by default as long as it usually does.

    Raises:
        InputError: for wrong arguments or input; nothing is written then.
    """
    request = Request(
        name=name, weights=weights, random_weights=random_weights, allow_pickle=allow_pickle, outputs=outputs,
        preprocess=preprocess, classes=as_tuple(classes), data=data, budget=budget or Budget(), out=Path(out),
        methods=as_tuple(methods), options=options or {}, **asked,
    )  # fmt: skip
    return run(request, progress, say)


def run(request: Request, progress: Progress = quiet, say: Say = silent) -> Outcome:
    """`fit`, asked for by one value."""
    began = time.monotonic()
    request.check_here()
    pairs, untried = contenders(request)
    request.checked_methods()
    first = before_search(len(pairs), sum(precision == "int8" for _, precision in pairs))
    pace = Pace.within(request.seconds, sum(first.values()) + PARTS * A_BUILD + AFTER)
    clock = StageClock(progress, first | after_dense(request, pace, A_BUILD))
    progress = clock.tell
    say(f"about {spoken(sum(clock.expected.values()))}, in {len(clock.expected)} stages")
    case = prepare(request, progress, say)
    with scratch() as tmp, ExitStack() as stack:
        baseline = find_baseline(
            case, request, pairs, untried, tmp, stack, lambda share, text: progress("dense", share, text)
        )
        goal = request.budget.goal(baseline.ms)
        each, spent = baseline.seat.build.seconds, time.monotonic() - began
        left = None if request.seconds is None else request.seconds - spent
        pace = Pace.within(left, PARTS * each + AFTER)
        clock.expected.update(after_dense(request, pace, each))
        if left is not None and left < (rest := PARTS * each + AFTER):
            say(f"--seconds {request.seconds:g}: every fit takes {spoken(spent + rest)} here, so the search is short")
        lanes = list[Lane]()
        if request.points is not None or dense_within(baseline, goal) is None:
            lanes = run_lanes(case, request, baseline, goal, pace, progress, began)
        proof = next((lane.proven for lane in lanes if lane.proven is not None), None)
        points = points_of(case, request, baseline, lanes, pace, progress)
        given = proof.trial.seat if proof is not None else dense_seat(baseline, goal)
        details = examine(case, baseline, proof, given, request.seed, progress)
        found = Findings(
            request, case, baseline, goal, tuple(lanes), proof, tuple(points), details, clock.seconds(),
            time.monotonic() - began,
        )  # fmt: skip
        verdict = verdict_of(found)
        progress("write", 0.6, str(request.out))
        folder = write(found, verdict)
    return Outcome(found.build.plan, verdict, folder)


def run_lanes(
    case: Case, request: Request, baseline: Baseline, goal: Goal, pace: Pace, progress: Progress, began: float
) -> list[Lane]:
    """The winner's lane, and the runner-up's where nothing held and the clock allows."""
    second, seat = baseline.runner_up, baseline.runner_up_seat
    ms = baseline.ms if second is None or second.latency_ms is None else second.latency_ms
    able = seat is not None and ms <= WORTH_A_SEARCH * baseline.ms
    able = able and request.points is None and request.planner == "pareto"
    each = 2 if able else 1
    lanes = [run_lane(case, request, baseline, baseline.seat, baseline.ms, goal, pace, progress, each)]
    late = request.seconds is not None and time.monotonic() - began > 0.6 * request.seconds
    if able and seat is not None and lanes[0].proven is None and not late:
        lanes.append(run_lane(case, request, baseline, seat, ms, goal, pace, progress, each))
    return lanes


def run_lane(
    case: Case, request: Request, baseline: Baseline, dense: Seat, dense_ms: float, goal: Goal, pace: Pace,
    progress: Progress, lanes: int,
) -> Lane:  # fmt: skip
    """`dense`: the dense build on this lane's target, which takes `dense_ms`; `lanes`: how many there may be."""
    found = search(case, request, dense.build.plan.target, goal, dense_ms, pace, progress)
    trials = build_trials(found, case, request, goal, dense, baseline.seat, dense_ms, pace, progress)
    if dense_within(baseline, goal) is not None:
        return Lane(found, dense_ms, trials, ())
    careful = careful_builder(found, case, request, goal, dense, baseline.seat)
    trials, proofs = put_to_the_proof(
        trials, case, goal, baseline.seat, baseline.ms, pace, progress, lanes, another=careful
    )
    return Lane(found, dense_ms, trials, proofs)


def points_of(
    case: Case, request: Request, baseline: Baseline, lanes: Sequence[Lane], pace: Pace, progress: Progress
) -> list[PointMeasurement]:
    """Where operating points are asked for: all that was built, by turns, and on photographs no search has seen."""
    if request.points is None:
        return []
    bench, dense = baseline.seat.bench, baseline.seat.label
    labels = [trial.label for lane in lanes for trial in lane.trials]
    qualities = {label: case.unseen.judge.quality(bench.outputs(label, case.unseen.x)) for label in (dense, *labels)}
    found = measure_points(
        bench, dense, labels, qualities, case.facts, seconds=pace.points,
        progress=lambda share, text: progress("points", share, text),
    )  # fmt: skip
    return worth_having(found)


def dense_seat(baseline: Baseline, goal: Goal) -> Seat:
    """The dense build to hand back: the fastest, or under a limit in milliseconds the exact one that meets it."""
    row = dense_within(baseline, goal)
    if row is not None and row is baseline.full and baseline.full_seat is not None:
        return baseline.full_seat
    return baseline.seat


def before_search(builds: int, of_int8: int) -> dict[str, float]:
    """Seconds that each stage is expected to take, in order, until the baseline is known."""
    return {"load": 8.0, "dense": A_BUILD * builds + 15.0 * of_int8}


def after_dense(request: Request, pace: Pace, each: float) -> dict[str, float]:
    """The same of the stages after it, where a build takes `each` seconds."""
    stages = {
        "profile": PARTS * each + pace.profile, "plan": pace.plan, "measure": max(2 * each, 0.8 * pace.build),
        "verify": 0.6 * pace.verify,
    }  # fmt: skip
    if request.points is not None:
        stages["points"] = pace.points
    return stages | {"write": AFTER}

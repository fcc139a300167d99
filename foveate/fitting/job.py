"""The main job: build, profile, plan, verify, keep or refuse."""

import logging
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from foveate.adapters import Facts, describe
from foveate.errors import InputError, one_of
from foveate.evaluate import Images
from foveate.files import check_folder
from foveate.fitting.baseline import Dense, contenders, fastest_dense
from foveate.fitting.bench import Build, photographs, reference_logits
from foveate.fitting.budget import Budget
from foveate.fitting.evidence import Evidence, Quality, quality
from foveate.fitting.frontier import Seen, measure_points, worth_having
from foveate.fitting.outcome import Outcome
from foveate.fitting.stages import Progress, StageClock
from foveate.fitting.writing import write
from foveate.hardware.device import default_threads
from foveate.hardware.timer import Speedup, proven
from foveate.loading.load import BUNDLED, Loaded, load
from foveate.methods import METHODS
from foveate.planners.pareto import spread
from foveate.planning import Candidate, plan_candidates, plan_pomt
from foveate.profiling import Profile, profile

log = logging.getLogger(__name__)

PLANNERS = ("pareto", "pomt")
PAIRS = 700  # measured pairs behind the verdict where they fit: MLPerf's rule wants 662 for a p99
VERIFY_SECONDS = 40.0
PLANNED_ON = 160  # photographs a search scores plans on: more plans on fewer photographs find better ones
SHORTLIST = 6  # plans built and measured
VERIFIED = 4  # plans that may be put to the proof, one after the other
MOST_POINTS = 15
POINTS_SECONDS = 60.0  # of timing operating points by turns
HOPE = 3.0  # plans expected to lose up to so many times the budget are built too: what they lose is then measured


def fit(
    name: str = BUNDLED,
    *,
    weights: str | Path | None = None,
    random_weights: bool = False,
    allow_pickle: bool = False,
    data: str | Path | None = None,
    budget: Budget | None = None,
    device: str = "cpu",
    runtime: str = "auto",
    precision: str = "auto",
    batch: int = 1,
    threads: int | None = None,
    out: str | Path = "foveate-out",
    methods: Sequence[str] | None = None,
    planner: str = "pareto",
    alpha: float = 0.5,
    images: int = 512,
    points: int | None = None,
    seed: int = 0,
    fresh: bool = False,
    command: str = "foveate.fit()",
    progress: Progress = lambda stage, share, text: None,
    seconds: float = 45.0,
    **model_kwargs: Any,
) -> Outcome:
    """Fit a vision transformer to this machine and write what to deploy into `out`.

    Args:
        name: a timm model name, or the bundled "clothing_vit".
        weights: safetensors file; a pickle only with `allow_pickle`.
        data: photographs, labelled or not (see `foveate.evaluate.open_images`); None takes the bundled ones.
        budget: what may be lost, or how fast it must be; by default one point.
        runtime, precision: "auto" looks for the fastest dense build among those available.
        planner: "pareto", or "pomt" for comparison: one cut by its utility, `alpha` being the weight of latency.
        images: at most so many photographs are used, drawn with `seed`.
        points: look over the whole range of latency, and measure so many operating points, the dense build among them;
            those worth having are written beside the plan (`foveate.elastic.Frontier`).
        fresh: measure the profile again instead of reading it from the cache.
        seconds: how long the search for a plan may take.

    Raises:
        InputError: for wrong arguments or input; nothing is written then.
    """
    began = time.monotonic()
    budget, out = budget or Budget(), Path(out)
    if device != "cpu":
        raise InputError(f"--device is {device!r}; allowed in this version: cpu")
    if batch < 1:
        raise InputError(f"--batch is {batch}; allowed: 1 or more")
    if threads is not None and threads < 1:
        raise InputError(f"--threads is {threads}; allowed: 1 or more")
    if images < 20:
        raise InputError(f"--images is {images}; allowed: 20 or more, for there to be something to measure a loss on")
    if points is not None and not 2 <= points <= MOST_POINTS:
        raise InputError(f"--points is {points}; allowed: 2 to {MOST_POINTS}, the dense build among them")
    if points is not None and planner != "pareto":
        raise InputError(f"--points needs --planner pareto; {planner} finds one plan")
    if planner not in PLANNERS:
        raise one_of("planner", planner, PLANNERS)
    if not 0 <= alpha <= 1:
        raise InputError(f"--alpha is {alpha:g}; allowed: 0 to 1")
    if planner == "pomt" and methods is not None and len(methods) != 1:
        raise InputError(f"--planner pomt takes one --method; got {', '.join(methods)}")
    for method in methods or ():
        _ = METHODS[method]  # an unknown name is told before anything long starts
    check_folder(out)
    pairs, untried = contenders(runtime, precision)
    threads = threads or default_threads()

    clock = StageClock(progress)
    progress = clock.tell
    progress("load", 0.0, name)
    loaded = load(name, weights=weights, random_weights=random_weights, allow_pickle=allow_pickle, **model_kwargs)
    photos = photographs(data, loaded, limit=images, seed=seed)
    if len(photos) < 20:
        raise InputError(f"{data} holds {len(photos)} photographs; at least 20 are needed to tell what a plan costs")
    with tempfile.TemporaryDirectory(prefix="foveate-") as tmp, ExitStack() as stack:
        job = _Job(loaded, photos, budget, batch, threads, seed, Path(tmp), progress, planner, alpha, points)
        job.compare_dense(pairs, untried, stack)
        if points is not None or not job.dense_will_do():
            job.find_candidates(methods, fresh, seconds)
            job.measure_and_verify()
            job.measure_points()
        return write(job, out, command, time.monotonic() - began, clock.seconds())


class _Job:
    """The state of one fit, stage after stage."""

    def __init__(
        self, loaded: Loaded, photos: Images, budget: Budget, batch: int, threads: int, seed: int, tmp: Path,
        progress: Progress, planner: str, alpha: float, points: int | None = None,
    ) -> None:  # fmt: skip
        self.planner, self.alpha, self.points = planner, alpha, points
        self.loaded, self.budget, self.batch, self.threads, self.seed = loaded, budget, batch, threads, seed
        self.tmp, self.progress = tmp, progress
        self.model: nn.Module = loaded.model
        self.facts: Facts = describe(loaded.model)
        # What is searched on is never what the verdict is given on.
        self.search, self.unseen = photos.split(0.6, seed)
        self.photos = photos
        progress("load", 0.3, f"decoding {len(photos)} photographs")
        self.x_search = self.search.array(loaded.preprocess)
        self.x_unseen = self.unseen.array(loaded.preprocess)
        progress("load", 0.7, "answers of the given model")
        self.logits_search = reference_logits(self.model, self.x_search)
        self.logits_unseen = reference_logits(self.model, self.x_unseen)
        self.rows: list[Dense] = []
        self.candidates: list[Candidate] = []
        self.profile: Profile | None = None
        self.chosen: Build | None = None
        self.speedup: Speedup | None = None
        self.reason = ""
        self.evidence = Evidence()
        self.measured: dict[str, Candidate] = {}
        self.ratios: dict[str, float] = {}  # latency over that of the dense build
        self.seen: list[Seen] = []  # operating points worth having, the dense build first
        self.checked: dict[str, Quality] = {}  # what a built plan loses on all photographs but the unseen

    def compare_dense(self, pairs: Sequence[tuple[str, str]], untried: Sequence[Dense], stack: ExitStack) -> None:
        sample = slice(0, 64)
        self.bench, rows = fastest_dense(
            self.model, self.loaded.ref, self.tmp, pairs,
            images=self.x_search[sample], logits=self.logits_search[sample], batch=self.batch, threads=self.threads,
            seed=self.seed, stack=stack, progress=lambda share, text: self.progress("dense", share, text),
        )  # fmt: skip
        self.rows = [*rows, *untried]

    def dense_will_do(self) -> bool:
        """Does the dense build meet a budget in milliseconds as it is?"""
        dense_ms, allowed = self.bench.builds["dense"].latency_ms, self.budget.latency_ms
        if allowed is None or dense_ms > allowed:
            return False
        self.reason = f"the dense build takes {dense_ms:.3g} ms, within {allowed:g} ms: nothing has to be reduced"
        return True

    def find_candidates(self, methods: Sequence[str] | None, fresh: bool, seconds: float) -> None:
        self.profile = profile(
            self.model, runtime=self.bench.runtime, precision=self.bench.precision, batch=self.batch,
            threads=self.threads, fresh=fresh, seconds=30.0,
            progress=lambda done, total, text: self.progress("profile", min(1.0, done / max(total, 1)), text),
        )  # fmt: skip
        limit = self.budget.limit_ms(self.bench.builds["dense"].latency_ms)
        few, labels = self.x_search[:PLANNED_ON], self.search.labels
        labels = None if labels is None else labels[:PLANNED_ON]
        if self.planner == "pomt":
            self.candidates = plan_pomt(
                self.model, few, labels, self.profile.table, methods=methods, alpha=self.alpha,
                progress=lambda share, text: self.progress("plan", share, text),
            )  # fmt: skip
            if not self.candidates:
                self.reason = f"POMT's utility (alpha {self.alpha:g}) is highest where all tokens are kept"
            return
        self.candidates = plan_candidates(
            self.model, few, labels, self.profile.table, methods=methods,
            max_drop=self.budget.points if limit is None else None,
            latency_ms=None if limit is None else limit * self.scale, budget_seconds=seconds,
            wide=self.points is not None, seed=self.seed,
            progress=lambda share, text: self.progress("plan", share, text),
        )  # fmt: skip

    @property
    def scale(self) -> float:
        """Predicted over measured latency of the dense model: budgets are in measured milliseconds."""
        assert self.profile is not None
        return self.profile.dense_ms / self.bench.builds["dense"].latency_ms

    def measure_and_verify(self) -> None:
        """Measure the shortlist where it will run, then prove the best on fresh pairs; fall back until one holds."""
        limit = self.budget.limit_ms(self.bench.builds["dense"].latency_ms)
        # Under a limit the second half is picked knowing how far off predictions were for the first.
        if self.points is not None:
            able = [c for c in self.candidates if c.steps]
            for candidate in spread(able, self.points - 1, lambda c: c.predicted_ms):
                self.measure(candidate)
        if self.points is None or limit is not None:
            for count in (SHORTLIST,) if limit is None else (SHORTLIST // 2, SHORTLIST // 2):
                for candidate in self.shortlist(limit, count):
                    self.measure(candidate)
        if self.dense_will_do():
            return
        points = self.budget.points
        able = [label for label in self.measured if points is None or self.checked[label].points_lost <= points]
        ranked = sorted(able, key=lambda label: self.rank(label, limit))
        if not ranked:
            self.reason = (
                self.reason
                or f"of {len(self.candidates)} plans scored and {len(self.measured)} built none kept the budget"
            )
        tried = ranked[:VERIFIED]
        for label in tried:
            self.progress("verify", 0.0, ", ".join(map(str, self.measured[label].steps)))
            if self.holds(label, claims=len(tried)):
                return

    def measure_points(self) -> None:
        """Where operating points are asked for: all that was built, by turns, and on photographs no search has seen."""
        if self.points is None:
            return
        answers = {label: self.bench.logits(label, self.x_unseen) for label in ("dense", *self.measured)}
        found = measure_points(
            self.bench, list(self.measured),
            {label: quality(self.logits_unseen, y, self.unseen.labels) for label, y in answers.items()},
            self.model, self.facts, seconds=POINTS_SECONDS,
            progress=lambda share, text: self.progress("points", share, text),
        )  # fmt: skip
        self.seen = worth_having(found)

    def measure(self, candidate: Candidate) -> None:
        label = f"candidate {len(self.measured) + 1}"
        share = min(1.0, len(self.measured) / (self.points or SHORTLIST))
        self.progress("measure", share, ", ".join(map(str, candidate.steps)))
        self.bench.add(label, candidate.steps, planner=self.planner)
        self.measured[label] = candidate
        self.ratios[label] = self.bench.share(label)
        answer = self.bench.logits(label, self.x_search)
        self.checked[label] = quality(self.logits_search, answer, self.search.labels)

    def shortlist(self, limit: float | None, most: int) -> list[Candidate]:
        """The candidates worth building next; which of them keep the budget is then measured."""
        points, built = self.budget.points, [c.steps for c in self.measured.values()]
        able = [c for c in self.candidates if c.steps and (points is None or c.expected_drop <= HOPE * points)]
        if limit is None:
            by_speed = sorted(able, key=lambda c: c.predicted_ms)
            picks = np.linspace(0, len(by_speed) - 1, min(most, len(by_speed))).round().astype(int)
            return [by_speed[i] for i in picks]
        # The prediction is good to some per cent: look a little to either side of the limit.
        cap = limit * self.scale / self.bias
        near = sorted((c for c in able if c.predicted_ms <= 1.02 * cap and c.steps not in built), key=lambda c: c.kl)
        faster = [c for c in near[most - 1 :] if c.predicted_ms <= 0.95 * cap][:1]
        return near[: most - len(faster)] + faster

    @property
    def bias(self) -> float:
        """Measured over predicted latency, both relative to the dense build: the median so far."""
        if not self.measured or self.profile is None:
            return 1.0
        dense = self.profile.dense_ms
        return float(np.median([self.ratios[k] * dense / c.predicted_ms for k, c in self.measured.items()]))

    def rank(self, label: str, limit: float | None) -> tuple[bool, float]:
        if limit is None:
            return (False, self.ratios[label])
        too_slow = self.ratios[label] * self.bench.builds["dense"].latency_ms > limit
        return (too_slow, self.checked[label].kl.value)

    def holds(self, label: str, claims: int) -> bool:
        """Is this plan proven faster, within the budget, and as good on photographs that no search has seen?

        `claims`: plans that may be tried until one holds, which the interval has to pay for.
        """
        build = self.bench.builds[label]
        answer = self.bench.logits(label, self.x_unseen)
        found = quality(self.logits_unseen, answer, self.unseen.labels)
        points = self.budget.points
        if points is not None and found.points_lost > points:
            self.reason = f"{build.plan.summary()}: loses {found.points_lost:.2g} points on unseen photographs"
            log.info(self.reason)
            self.evidence.rejected.append((label, self.reason))
            return False
        self.bench.builds["dense"].latencies_ms.clear()
        build.latencies_ms.clear()
        most = int(np.clip(VERIFY_SECONDS * 1e3 / (2 * self.bench_ms(label)), 64, PAIRS))

        def measure(count: int) -> tuple[np.ndarray, np.ndarray]:
            base, other = self.bench.time(["dense", label], count)
            done = len(build.latencies_ms)
            self.progress("verify", min(1.0, done / most), f"{done} pairs")
            return base, other

        # A fast model takes all its pairs in one look, which costs no correction; a slow one stops once it is clear.
        first = most if most == PAIRS else min(64, most)
        found_speedup, _, _ = proven(measure, level=0.99, first=first, most=most, claims=claims)
        limit = self.budget.limit_ms(self.bench.builds["dense"].latency_ms)
        if found_speedup.low <= 1:
            self.reason = (
                f"{build.plan.summary()}: not proven faster than the best dense build "
                f"({found_speedup.value:.3f} times, 99 % interval from {found_speedup.low:.3f})"
            )
        elif limit is not None and build.latency_ms > limit:
            self.reason = f"{build.plan.summary()}: takes {build.latency_ms:.3g} ms, {limit:.3g} allowed"
        else:
            s = self.speedup = found_speedup
            self.chosen = build
            self.reason = (
                f"{s.value:.3f} times faster than the best dense build ({self.bench.runtime} {self.bench.precision}), "
                f"99 % interval {s.low:.3f} to {s.high:.3f}"
            )
            return True
        self.evidence.rejected.append((label, self.reason))
        return False

    def bench_ms(self, label: str) -> float:
        ms = self.bench.time(["dense", label], 5)
        return float(np.median(ms))

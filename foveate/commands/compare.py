"""Every method at the same latency, and the planner's own choice: one table, one plot."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from foveate.adapters import TURN, Facts, describe
from foveate.errors import InputError
from foveate.fitting.baseline import contenders, fastest_dense
from foveate.fitting.bench import Bench, photographs, reference_logits
from foveate.fitting.evidence import origin, quality, tagged
from foveate.fitting.job import PLANNED_ON
from foveate.fitting.stages import Progress
from foveate.hardware.device import default_threads
from foveate.hardware.timer import speedup
from foveate.loading.load import BUNDLED, load
from foveate.methods import METHODS
from foveate.planners.table import LatencyTable
from foveate.planning import Candidate, plan_candidates
from foveate.plans import Step
from foveate.profiling import Profile, profile
from foveate.result import Result, Tag, write_results
from foveate.schedule import Schedule

log = logging.getLogger(__name__)
Kept = tuple[float, str]  # merit and label of a build


def compare(
    name: str = BUNDLED,
    *,
    weights: str | Path | None = None,
    random_weights: bool = False,
    allow_pickle: bool = False,
    data: str | Path | None = None,
    runtime: str = "auto",
    precision: str = "auto",
    batch: int = 1,
    threads: int | None = None,
    levels: Sequence[float] = (0.85, 0.7, 0.55),
    methods: Sequence[str] | None = None,
    images: int = 512,
    out: str | Path = "foveate-compare",
    seed: int = 0,
    pairs: int = 100,
    seconds: float = 60.0,
    progress: Progress = lambda stage, share, text: None,
) -> list[dict[str, Any]]:
    """Put every method, in its three-block schedule, and the planner at each of `levels` of the dense latency.

    The single methods reduce in the blocks at 1/4, 1/2 and 3/4 of the depth, by the same factor each. Levels are
    measured, not predicted: counts are corrected by what a build takes until it lands at most a point above the level
    and two below, in four builds at most, after which the slowest below the level is taken; of the planner's candidates
    the one closest to the dense model counts of those that land. Quality is what the built file answers on photographs
    that the planner did not see. Returns the rows and writes results.jsonl and compare.html into `out`.
    """
    if bad := [v for v in levels if not 0.1 <= v < 1]:
        raise InputError(f"--level is {bad[0]:g}; allowed: 0.1 to below 1 (a share of the dense latency)")
    chosen = list(methods or METHODS)
    for method in chosen:
        _ = METHODS[method]  # an unknown name is told before anything is measured
    pairs_of, _ = contenders(runtime, precision)
    threads = threads or default_threads()
    progress("load", 0.0, name)
    loaded = load(name, weights=weights, random_weights=random_weights, allow_pickle=allow_pickle)
    facts = describe(loaded.model)
    if facts.turns:
        chosen = [TURN]
    able = [m for m in chosen if facts.has_class_token or "class_row" not in METHODS[m].needs]
    photos = photographs(data, loaded, limit=images, seed=seed)
    search, unseen = photos.split(0.4, seed)
    x_search, x_unseen = search.array(loaded.preprocess), unseen.array(loaded.preprocess)
    few, labels = x_search[:PLANNED_ON], None if search.labels is None else search.labels[:PLANNED_ON]
    reference, answers = reference_logits(loaded.model, x_unseen), reference_logits(loaded.model, x_search[:64])
    rows: list[dict[str, Any]] = []
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="foveate-") as tmp, ExitStack() as stack:
        bench, _ = fastest_dense(
            loaded.model, loaded.ref, Path(tmp), pairs_of, images=x_search[:64], logits=answers, batch=batch,
            threads=threads, seed=seed, stack=stack, progress=lambda share, text: progress("dense", share, text),
        )  # fmt: skip
        found = profile(
            loaded.model, runtime=bench.runtime, precision=bench.precision, batch=batch, threads=threads,
            progress=lambda done, total, text: progress("profile", min(1.0, done / max(total, 1)), text),
        )  # fmt: skip
        source, landing = origin(bench, seed), Landing(bench, found)
        total = len(levels) * (len(able) + 1)
        for level in levels:
            for method in [*able, "pareto"]:
                progress("measure", len(rows) / total, f"{method} at {level:g} of the dense latency")
                if method == "pareto":
                    cap = found.dense_ms * level * min(1.0, landing.optimism)
                    best = plan_candidates(
                        loaded.model, few, labels, found.table, methods=methods,
                        latency_ms=cap, budget_seconds=seconds, seed=seed,
                        progress=lambda share, text: progress("plan", share, text),
                    )  # fmt: skip
                    label = landing.best([c for c in best if c.steps], level)
                else:
                    label = landing.near(level, partial(three_blocks, facts, method, found.table))
                if label is None:
                    log.warning("%s cannot reach %g of the dense latency", method, level)
                    continue
                build = bench.builds[label]
                base, other = bench.time(["dense", label], pairs)
                s = speedup(base, other, level=0.99)
                q = quality(reference, bench.logits(label, x_unseen), unseen.labels)
                gmacs = facts.macs(build.plan.schedule) / 1e9
                tags: dict[str, Tag] = {
                    "method": method, "level": level, "runtime": bench.runtime, "precision": bench.precision,
                    "batch": batch, "tokens": list(build.plan.schedule.after), "plan": build.plan.summary(),
                }  # fmt: skip
                results += [tagged(r, source, **tags, split="unseen") for r in q.results()]
                results += [
                    Result(name="speedup", value=s.value, unit="x", low=s.low, high=s.high, level=s.level, n=s.n,
                           tags=tags, origin=source),
                    Result(name="latency", value=float(np.median(other)), unit="ms", n=len(other), tags=tags,
                           origin=source),
                    Result(name="macs", value=gmacs, unit="GMAC", tags=tags, origin=source),
                ]  # fmt: skip
                rows.append(
                    {
                        "level": level, "method": method, "speedup": s.value, "low": s.low, "high": s.high,
                        "agreement": q.agreement.value, "kl": q.kl.value, "kl_low": q.kl.low, "kl_high": q.kl.high,
                        "drop": None if q.drop is None else q.drop.value,
                        "drop_low": None if q.drop is None else q.drop.low,
                        "drop_high": None if q.drop is None else q.drop.high,
                        "accuracy": None if q.accuracy is None else q.accuracy.value,
                        "gmacs": gmacs, "tokens": list(build.plan.schedule.after), "images": len(unseen),
                        "predicted": found.predict(build.plan) / found.dense_ms, "measured": 1 / s.value,
                        "steps": [p.model_dump() for p in build.plan.steps],
                    }
                )  # fmt: skip
                bench.drop(label)
    out = Path(out)
    write_results(out / "results.jsonl", results)
    from foveate.report.compare import write_comparison

    write_comparison(results, out / "compare.html")
    return rows


class Landing:
    """Brings plans to a share of the dense latency, by measuring what they take."""

    above, below = 0.01, 0.02  # how far off a level, in shares of the dense latency, a plan may land

    def __init__(self, bench: Bench, found: Profile) -> None:
        self.bench, self.found = bench, found
        self._optimism = list[float]()
        self._built = 0

    @property
    def optimism(self) -> float:
        """Predicted over measured latency, each as a share of the dense one: the median so far."""
        return float(np.median(self._optimism)) if self._optimism else 1.0

    def near(self, level: float, steps_for: Callable[[float], tuple[Step, ...]], tries: int = 4) -> str | None:
        """Build what `steps_for` a predicted latency (ms) gives until it lands near `level`; the build's label.

        None where nothing as fast was found. Of those not above the level, the slowest is taken.
        """
        aim, seen, best = level * self.optimism, list[tuple[Step, ...]](), None
        for _ in range(tries):
            steps = steps_for(aim * self.found.dense_ms)
            if not steps or steps in seen:
                break
            seen.append(steps)
            label, share = self._measure(steps)
            best = self._better(best, share if share <= level + self.above else None, label)
            if level - self.below <= share <= level + self.above:
                break
            aim *= level / share
        return None if best is None else best[1]

    def best(self, candidates: Sequence[Candidate], level: float, tries: int = 8) -> str | None:
        """The candidate of least KL among those that land at most near `level`; its build's label."""
        best, left, own = None, sorted(candidates, key=lambda c: c.kl), list[float]()
        for _ in range(tries):
            # How far off predictions were for plans of this very front tells more than for others. A twentieth beyond
            # that is looked at too: the more steps a plan has, the further off its prediction.
            cap = 1.05 * (level + self.above) * (float(np.median(own)) if own else self.optimism) * self.found.dense_ms
            if (candidate := next((c for c in left if c.predicted_ms <= cap), None)) is None:
                break
            left.remove(candidate)
            label, share = self._measure(candidate.steps)
            own.append(self._optimism[-1])
            landed = share <= level + self.above
            best = self._better(best, -candidate.kl if landed else None, label)
            if landed:
                left = [c for c in left if c.kl < candidate.kl]
        return None if best is None else best[1]

    def _measure(self, steps: tuple[Step, ...]) -> tuple[str, float]:
        label = f"plan {self._built}"
        self._built += 1
        self.bench.add(label, steps)
        share = self.bench.share(label)
        self._optimism.append(self.found.predict(steps) / self.found.dense_ms / share)
        return label, share

    def _better(self, best: Kept | None, merit: float | None, label: str) -> Kept | None:
        """The build of more merit (None: it missed); the other is forgotten."""
        if merit is None or (best is not None and merit <= best[0]):
            self.bench.drop(label)
            return best
        if best is not None:
            self.bench.drop(best[1])
        return merit, label


def three_blocks(facts: Facts, method: str, table: LatencyTable, limit_ms: float) -> tuple[Step, ...]:
    """Steps in the blocks at 1/4, 1/2 and 3/4 of the depth that keep the same share each and just meet `limit_ms`."""
    blocks = facts.turns or facts.quarters
    for removed in range(1, facts.patches * 3):
        share = 1 - removed / (facts.patches * 3)
        counts, now = {}, facts.patches
        for block in blocks:
            now = max(2, int(now * share + 0.5), now - int(now * METHODS[method].max_drop))
            counts[block] = facts.prefix + now
        schedule = Schedule.cut(facts.tokens, facts.depth, counts, facts.prefix)
        if table.predict(schedule, dict.fromkeys(blocks, method)) <= limit_ms:
            return tuple(Step(block=b, method=method, tokens=n) for b, n in schedule.cuts.items())
    return ()

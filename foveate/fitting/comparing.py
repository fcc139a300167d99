"""Every method at the same latency, and the planner's own choice: one table, one plot."""

import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from foveate.adapters import Facts, describe
from foveate.adapters.load import BUNDLED, load
from foveate.errors import InputError
from foveate.files import write_text
from foveate.fitting.baseline import contenders, fastest_dense
from foveate.fitting.bench import photographs, reference_logits
from foveate.fitting.evidence import origin, quality, tagged
from foveate.fitting.job import Progress
from foveate.hardware.device import default_threads
from foveate.hardware.timer import speedup
from foveate.methods import METHODS
from foveate.planners.table import LatencyTable
from foveate.planning import plan_candidates
from foveate.plans import Step
from foveate.profiling import profile
from foveate.result import Result, Tag, write_results
from foveate.schedule import Schedule, macs

log = logging.getLogger(__name__)


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

    The single methods reduce in the blocks at 1/4, 1/2 and 3/4 of the depth, by the same factor each, to the counts
    whose predicted latency is nearest below the level. Quality is what the built file answers on photographs that the
    planner did not see. Returns the rows and writes results.jsonl and compare.html into `out`.
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
    able = [m for m in chosen if facts.has_class_token or "class_row" not in METHODS[m].needs]
    photos = photographs(data, loaded, limit=images, seed=seed)
    search, unseen = photos.split(0.4, seed)
    x_search, x_unseen = search.array(loaded.preprocess), unseen.array(loaded.preprocess)
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
        source = origin(bench, seed)
        dense = found.dense_ms
        total = len(levels) * (len(able) + 1)
        for level in levels:
            plans: list[tuple[str, tuple[Step, ...]]] = [
                (m, three_blocks(facts, m, found.table, level * dense)) for m in able
            ]
            best = plan_candidates(
                loaded.model, x_search, search.labels, found.table, methods=methods,
                latency_ms=level * dense, budget_seconds=seconds, seed=seed,
                progress=lambda share, text: progress("plan", share, text),
            )  # fmt: skip
            within = [c for c in best if c.steps and c.predicted_ms <= level * dense * 1.001]
            if within:
                plans.append(("pareto", tuple(min(within, key=lambda c: c.kl).steps)))
            for method, steps in plans:
                progress("measure", len(rows) / total, f"{method} at {level:g} of the dense latency")
                if not steps:
                    log.warning("%s cannot reach %g of the dense latency", method, level)
                    continue
                label = f"{method} {level:g}"
                build = bench.add(label, steps)
                bench.time(["dense", label], 5)
                base, other = bench.time(["dense", label], pairs)
                s = speedup(base, other, level=0.99)
                q = quality(reference, bench.logits(label, x_unseen), unseen.labels)
                gmacs = macs(
                    build.plan.schedule, facts.width, patches=facts.patches, patch_size=facts.patch[0],
                    classes=facts.classes,
                ) / 1e9  # fmt: skip
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
                        "predicted": found.predict(steps) / dense,
                        "measured": float(np.median(other) / np.median(base)),
                        "steps": [p.model_dump() for p in steps],
                    }
                )  # fmt: skip
                bench.drop(label)
    out = Path(out)
    write_results(out / "results.jsonl", results)
    from foveate.report.compare import write_comparison

    write_comparison(results, out / "compare.html")
    write_text(out / "loaded.txt", f"{loaded.ref.name} {loaded.ref.weights} {loaded.note or ''}\n")
    return rows


def three_blocks(facts: Facts, method: str, table: LatencyTable, limit_ms: float) -> tuple[Step, ...]:
    """Steps in the blocks at 1/4, 1/2 and 3/4 of the depth that keep the same share each and just meet `limit_ms`."""
    blocks = [facts.depth // 4, facts.depth // 2, 3 * facts.depth // 4]
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

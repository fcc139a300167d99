"""What `fit` leaves: model files, plan, results, verdict, pictures, and the page about them."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.artefact import write_card
from foveate.files import replacing_folder, write_text
from foveate.fitting.evidence import origin, overlays
from foveate.fitting.frontier import frontier_of
from foveate.fitting.frontier import results as frontier_results
from foveate.fitting.outcome import Outcome, vars_of
from foveate.result import write_results

if TYPE_CHECKING:
    from foveate.fitting.job import _Job


def write(job: "_Job", out: Path, command: str, seconds: float, stages: dict[str, float]) -> Outcome:
    """The folder, whole or not at all."""
    job.progress("write", 0.0, str(out))
    if job.chosen is None and not job.reason:
        job.reason = "nothing faster was found within the budget"
    build = job.chosen or job.bench.builds["dense"]
    limit = job.budget.limit_ms(job.bench.builds["dense"].latency_ms)
    met = job.chosen is not None or (limit is not None and job.bench.builds["dense"].latency_ms <= limit)
    if job.chosen is None and not met:
        job.reason = f"budget ({job.budget}) not met: {job.reason}. The best dense build is written"
    source = origin(job.bench, job.seed)
    results = job.evidence.results(job, source)
    verdict = {
        "outcome": "faster" if job.chosen else "dense", "budget": str(job.budget), "budget_met": met,
        "reason": job.reason, "speedup": None if job.speedup is None else vars_of(job.speedup),
        "seconds": round(seconds, 1), "stages": stages, "random_weights": job.loaded.ref.weights == "random",
        "note": job.loaded.note, "command": command, "rejected": [reason for _, reason in job.evidence.rejected],
    }  # fmt: skip
    with replacing_folder(out) as part:
        # The very files that were scored and timed, not other builds of the plans.
        builds = {label: job.bench.builds[label] for label in {build.label, *(s.label for s in job.seen)}}
        order = [s.label for s in job.seen]
        where = {label: Path("points", str(order.index(label))) if label in order else Path() for label in builds}
        for label, folder in where.items():
            (part / folder).mkdir(parents=True, exist_ok=True)
            for file in sorted(builds[label].file.parent.iterdir()):
                shutil.copy2(file, part / folder / file.name)
        files = {label: (folder / builds[label].file.name).as_posix() for label, folder in where.items()}
        write_card(part, build.plan, files[build.label], job.loaded.preprocess, job.loaded.classes, job.loaded.note)
        if job.seen:
            frontier = frontier_of(job.seen, job.bench, job.facts, files, source)
            frontier.save(part)
            results += frontier_results(frontier, source)
        write_results(part / "results.jsonl", results)
        write_text(part / "verdict.json", json.dumps(verdict, indent=2) + "\n")
        if job.chosen is not None:
            pictures = overlays(job.model, build.plan, job.unseen, job.loaded, job.bench, build.label)
            write_text(part / "overlays.json", json.dumps(pictures))
        if job.profile is not None:
            write_text(part / "profile.json", job.profile.model_dump_json(indent=1) + "\n")
        from foveate.report import write_report

        write_report(part)
    return Outcome(
        faster=job.chosen is not None, met=met, reason=job.reason, plan=build.plan, speedup=job.speedup,
        folder=out, seconds=seconds, note=job.loaded.note,
    )  # fmt: skip

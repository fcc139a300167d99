"""What `fit` leaves: model files, plan, results, verdict, pictures, and the page about them. Computes nothing."""

import shutil
from pathlib import Path

from foveate.artefact import write_card, write_gallery
from foveate.elastic import Frontier
from foveate.files import replacing_folder, write_text
from foveate.fitting.findings import Findings
from foveate.fitting.points import frontier_of, point_rows
from foveate.fitting.rows import rows_of
from foveate.programs import remember
from foveate.result import write_results
from foveate.runtimes import RUNTIMES
from foveate.written import Verdict


def write(found: Findings, verdict: Verdict) -> Path:
    """The folder, whole or not at all."""
    source, loaded = found.details.origin, found.case.loaded
    with replacing_folder(found.request.out) as part:
        files = copy_builds(found, part)
        write_card(
            part, found.build.plan, files[found.build.label], loaded.preprocess, loaded.classes, loaded.note,
            outputs=found.case.facts.outputs,
        )  # fmt: skip
        rows = rows_of(found)
        if found.points:
            frontier: Frontier = frontier_of(found.points, found.case.facts, files, source)
            frontier.save(part)
            rows += point_rows(frontier, source)
        write_results(part / "results.jsonl", rows)
        verdict.save(part)
        if found.details.overlays is not None:
            found.details.overlays.save(part)
        if found.details.gallery is not None:
            write_gallery(part, found.case.search.sample.images.names, found.details.gallery)
        for lane in found.lanes[:1]:
            write_text(part / "profile.json", lane.search.profile.model_dump_json(indent=1) + "\n")
        from foveate.report import write_report

        write_report(part)
    return found.request.out


def copy_builds(found: Findings, part: Path) -> dict[str, str]:
    """The very files that were scored and timed, not other builds of the plans: {label: relative file}."""
    builds = {found.build.label: found.build} | {p.label: p.build for p in found.points}
    order = [p.label for p in found.points]
    files = {}
    for label, build in builds.items():
        folder = Path("points", str(order.index(label))) if label in order else Path()
        (part / folder).mkdir(parents=True, exist_ok=True)
        for file in sorted(build.file.parent.iterdir()):
            shutil.copy2(file, part / folder / file.name)
        files[label] = (folder / build.file.name).as_posix()
        if RUNTIMES[build.plan.target.runtime].code:
            remember(part / files[label])
    return files

"""A comparison under way, on disk: the rows measured so far, and what they are of, so that another run goes on."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from foveate.errors import InputError
from foveate.files import read_as, write_text
from foveate.fitting.case import Case
from foveate.fitting.request import Request
from foveate.hardware.device import device_facts
from foveate.result import Result, write_results
from foveate.target import Precision
from foveate.version import __version__

FILE = "compare.json"


class Comparison(BaseModel):
    """`of`: a digest of all that a row depends on. against: runtime and precision of the dense build that all rows are
    measured against, once that is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    of: str
    name: str  # of the model, for people
    against: tuple[str, Precision] | None = None
    rows: tuple[dict[str, Any], ...] = ()
    results: tuple[Result, ...] = ()

    @property
    def done(self) -> set[tuple[float, str]]:
        """(level, method) of the rows."""
        return {(row["level"], row["method"]) for row in self.rows}

    def with_row(self, row: dict[str, Any], results: Iterable[Result]) -> "Comparison":
        return self.model_copy(update={"rows": (*self.rows, row), "results": (*self.results, *results)})

    def write(self, folder: Path, note: str | None) -> None:
        """Everything that a reader may open meanwhile. `note`: stands on the page."""
        from foveate.report.compare import write_comparison

        write_text(folder / FILE, self.model_dump_json(indent=1) + "\n")
        write_results(folder / "results.jsonl", self.results)
        if self.results:
            write_comparison(self.results, folder / "compare.html", note=note)


def open_comparison(folder: Path, case: Case, request: Request, settings: dict[str, Any], fresh: bool) -> Comparison:
    """What `folder` holds of this comparison; an empty one where there is nothing, or with `fresh`.

    Raises:
        InputError: the folder holds another comparison, or what foveate did not write.
    """
    new = Comparison(of=digest(case, request, settings), name=case.loaded.ref.name)
    if fresh or not folder.is_dir() or not any(folder.iterdir()):
        return new
    if not (folder / FILE).is_file():
        raise InputError(f"output folder {folder} holds something else than a comparison; name another or empty it")
    found = read_as(Comparison, folder / FILE)
    if found.of != new.of:
        raise InputError(
            f"{folder} holds another comparison, of {found.name} ({len(found.rows)} rows), or of other photographs, "
            "settings, machine or version; name another --out, or begin anew with --fresh"
        )
    return found


def digest(case: Case, request: Request, settings: dict[str, Any]) -> str:
    """Of all that a row depends on: the weights, the photographs, what was asked, the machine and the version."""
    facts = device_facts()
    parts = {
        "model": case.loaded.ref.model_dump(mode="json"), "preprocess": case.loaded.preprocess.model_dump(mode="json"),
        "photographs": [*case.search.sample.images.names, *case.unseen.sample.images.names],
        "outputs": case.facts.outputs,
        "device": request.device, "batch": request.batch, "threads": request.threads, "seed": request.seed,
        "asked": [request.runtime, request.precision], "settings": settings,
        "machine": {key: facts.get(key) for key in ("cpu", "gpu", "threads")}, "version": __version__,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

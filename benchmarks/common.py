"""What the benchmarks share: rows in a JSON file with the machine's facts, written after every row."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from foveate.adapters import adapt, describe
from foveate.errors import InputError
from foveate.files import write_text
from foveate.fitting.bench import Bench, rounds_for
from foveate.hardware.device import default_threads, device_facts
from foveate.hardware.timer import speedup
from foveate.loading.load import Loaded
from foveate.runtimes import RUNTIMES
from foveate.target import Target

RESULTS = Path(__file__).parent / "results"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def data_folder() -> Path:
    where = os.environ.get("FOVEATE_DATA")
    if not where:
        raise SystemExit("FOVEATE_DATA must name the folder with the photographs and weights")
    return Path(where)


def target_of(runtime: str, precision: str, batch: int = 1) -> Target:
    return Target.of(runtime=runtime, precision=precision, batch=batch, threads=default_threads())


@contextmanager
def beside_dense(loaded: Loaded, runtime: str, precision: str, batch: int) -> Iterator[Bench]:
    """A bench in a process of its own that holds the dense build, as "dense"; its files go with it."""
    with (
        tempfile.TemporaryDirectory() as tmp,
        Bench(loaded.model, loaded.ref, Path(tmp), target_of(runtime, precision, batch)) as bench,
    ):  # fmt: skip
        bench.add("dense")
        yield bench


def against(bench: Bench, base: NDArray[np.float64], other: NDArray[np.float64], macs_ratio: float) -> dict[str, Any]:
    """Interleaved times [pairs] in ms of the dense build and of another, as a row's figures; intervals of 95 %."""
    s = speedup(base, other, level=0.95)
    return {
        "runtime": bench.target.runtime, "precision": bench.target.precision, "batch": bench.target.batch,
        "dense_ms": float(np.median(base)), "ms": float(np.median(other)),
        "latency_ratio": 1 / s.value, "low": 1 / s.high, "high": 1 / s.low, "macs_ratio": macs_ratio,
        "over_macs": 1 / s.value / macs_ratio, "pairs": len(other), "versions": bench.worker.facts(),
    }  # fmt: skip


def cells(runtimes: Sequence[str] | None, batches: Sequence[int]) -> Iterator[tuple[str, str, int]]:
    """(runtime, precision, batch) of all that can run here; what cannot is said, with its reason."""
    for runtime in runtimes or RUNTIMES:
        for precision in ("fp32", "bf16"):
            if reason := RUNTIMES[runtime].why_not(precision):
                say(f"{runtime} {precision}: {reason}")
                continue
            for batch in batches:
                yield runtime, precision, batch


def contest(
    sheet: "Sheet", size: str, vit: Loaded, models: dict[str, nn.Module], runtime: str, precision: str, batch: int,
    rounds: int,
) -> None:  # fmt: skip
    """A row for each of `models` against `vit`, all taking turns in one process; nothing where the rows are there."""
    keys = {kind: f"{size} {runtime} {precision} b{batch} {kind}" for kind in models}
    if all(k in sheet.value["rows"] for k in keys.values()):
        return
    macs = lambda m: (f := describe(m)).macs(f.cut(()))
    try:
        with beside_dense(vit, runtime, precision, batch) as bench:
            for kind, model in models.items():
                bench.add(kind, module=adapt(model).eval())
            labels = ["dense", *models]
            first = bench.time(labels, 3, warmup=1).median("dense")
            base, *others = bench.time(labels, min(rounds, rounds_for(first, 12.0, least=12))).ms
            for (kind, model), other in zip(models.items(), others, strict=True):
                row = {"size": size, "kind": kind, **against(bench, base, other, macs(model) / macs(vit.model))}
                sheet.row(keys[kind], lambda row=row: row)
    except (InputError, RuntimeError) as e:
        say(f"{size} {runtime} {precision} batch {batch} failed: {e}")


class Sheet:
    """Rows of one benchmark, keyed, so that an interrupted run goes on where it stopped (`fresh` starts anew)."""

    def __init__(self, name: str, *, fresh: bool = False, **about: Any) -> None:
        self.path = RESULTS / f"{name}.json"
        self.value: dict[str, Any] = {"about": about, "machine": device_facts(), "rows": {}}
        if fresh:
            self.path.unlink(missing_ok=True)
        self.value["rows"] = self.stored()

    def stored(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())["rows"] if self.path.exists() else {}

    def row(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self.value["rows"]:
            found = measure() | {"cpu": self.value["machine"]["cpu"]}  # rows may be of several machines
            # Another process may have measured other rows meanwhile.
            self.value["rows"] |= self.stored() | {key: found}
            write_text(self.path, json.dumps(self.value, indent=1, default=str) + "\n")
        say(f"{key}: {json.dumps(self.value['rows'][key])[:300]}")
        return self.value["rows"][key]


def told() -> Callable[[str, float, str], None]:
    """A line whenever the epoch changes."""
    seen = set()

    def progress(stage: str, share: float, text: str) -> None:
        epoch = text.partition(",")[0]
        if epoch not in seen:
            seen.add(epoch)
            say(f"{share:.0%} {text}")

    return progress

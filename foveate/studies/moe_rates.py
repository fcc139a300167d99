"""The study of rates as a run: settings times sizes, spread over processes, resumable, the same for the same seed.

A unit is one setting at one size with all its repeats; each is written as a file of its own when it is done.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from foveate.errors import InputError
from foveate.files import locked, read_as, write_text
from foveate.hardware.device import usable_cpus
from foveate.studies.rates import ERRORS, Rate, Setting, errors, medians, rate, settings

STUDY, UNITS, RESULTS = "study.json", "units", "rates.json"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Progress = Callable[[str, float, str], None]


class Design(BaseModel):
    """What a run's numbers hang on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int = Field(default=1000, ge=10)
    high: int = Field(default=100_000, le=10**12)
    sizes: int = Field(default=20, ge=2, le=1000)
    repeats: int = Field(default=40, ge=2, le=100_000)
    seed: int = Field(default=0, ge=0)
    only: str | None = None  # settings whose names contain this

    def counts(self) -> list[int]:
        """Sample sizes, log-spaced.

        Raises:
            InputError: they do not rise.
        """
        found = [round(n) for n in np.geomspace(self.low, self.high, self.sizes)]
        if sorted(set(found)) != found:
            raise InputError(f"{self.sizes} sizes from {self.low} to {self.high}; allowed: as many as rise there")
        return found

    def chosen(self) -> list[tuple[int, Setting]]:
        """With their numbers, which draw their seeds.

        Raises:
            InputError: no setting has such a name.
        """
        every = settings()
        found = [(i, s) for i, s in enumerate(every) if self.only is None or self.only in s.name]
        if not found:
            raise InputError(f"no setting contains {self.only!r}; there are: {'; '.join(s.name for s in every)}")
        return found


class Unit(BaseModel):
    """One setting at one size: errors by name, a value a repeat."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=True, ser_json_inf_nan="constants")

    setting: str
    n: int
    errors: dict[str, list[float]]


@dataclass(frozen=True)
class Studied:
    """What came of it."""

    out: Path
    design: Design
    units: Mapping[tuple[str, int], Unit]

    def found(self, setting: str, error: str) -> np.ndarray | None:
        """[sizes repeats]; None where that error is not defined."""
        rows = [self.units[setting, n].errors.get(error) for n in self.design.counts()]
        return None if any(row is None for row in rows) else np.array(rows)

    def rates(self) -> list[dict[str, Any]]:
        """A row a setting and error."""
        made = []
        for _, setting in self.design.chosen():
            for error in ERRORS:
                values = self.found(setting.name, error)
                if values is not None:
                    fitted: Rate = rate(self.design.counts(), values)
                    made.append(
                        {"setting": setting.name, **asdict(setting), "error": error, **asdict(fitted)}
                        | {"medians": [None if np.isnan(m) else float(m) for m in medians(values)]}
                    )
        return made


def study(
    out: Path, design: Design, *, processes: int | None = None,
    progress: Progress = lambda stage, share, text: None,
) -> Studied:  # fmt: skip
    """Run what is not there yet, and write `rates.json`.

    Args:
        out: a new folder, or one of a run of the same design, which goes on.
        processes: by default as many as there are processors.

    Raises:
        InputError: the folder is of another design, or holds something else.
    """
    counts, chosen = design.counts(), design.chosen()
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        _claim(out, design)
        found, missing = dict[tuple[str, int], Unit](), list[tuple[int, Setting, int]]()
        for at, setting in chosen:
            for n in counts:
                path = _path(out, at, n)
                if path.exists():
                    found[setting.name, n] = read_as(Unit, path)
                else:
                    missing.append((at, setting, n))
        _run(out, design, missing, found, processes or len(usable_cpus()), progress)
        done = Studied(out, design, found)
        text = {"design": design.model_dump(), "sizes": counts, "rates": done.rates()}
        write_text(out / RESULTS, json.dumps(text, indent=1) + "\n")
    return done


def _claim(out: Path, design: Design) -> None:
    """Write what the run is, or see that it is the same."""
    if (out / STUDY).exists():
        there = read_as(Design, out / STUDY)
        if there != design:
            differs = [f"{k} {v}" for k, v in there if getattr(design, k) != v]
            raise InputError(f"{out} is a run with {', '.join(differs)}: ask for the same, or name another --out")
        return
    if any(each.name != ".lock" for each in out.iterdir()):
        raise InputError(f"{out} holds something else; allowed: a new folder, or one of this study")
    write_text(out / STUDY, design.model_dump_json(indent=2) + "\n")
    (out / UNITS).mkdir(exist_ok=True)


def _run(
    out: Path, design: Design, missing: Sequence[tuple[int, Setting, int]], found: dict[tuple[str, int], Unit],
    processes: int, progress: Progress,
) -> None:  # fmt: skip
    whole, began = len(missing) + len(found), time.monotonic()
    if not missing:
        return
    (out / UNITS).mkdir(exist_ok=True)
    if processes == 1:
        for done, (at, setting, n) in enumerate(missing):
            left = (time.monotonic() - began) / done * (len(missing) - done) if done else 0.0
            text = f"{len(found)} of {whole}" + (f", {left / 60:.0f} min left" if done else "")
            progress("fits", len(found) / whole, text)
            found[setting.name, n] = made = unit(at, setting, n, design.repeats, design.seed)
            write_text(_path(out, at, n), made.model_dump_json() + "\n")
        return
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read when numpy is loaded, in processes that start anew
    pool = ProcessPoolExecutor(min(processes, len(missing)), mp_context=get_context("spawn"))
    try:
        progress("fits", len(found) / whole, f"{len(found)} of {whole}")
        waiting = {pool.submit(unit, *each, design.repeats, design.seed): each for each in missing}
        while waiting:
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                at, setting, n = waiting.pop(future)
                found[setting.name, n] = made = future.result()
                write_text(_path(out, at, n), made.model_dump_json() + "\n")
            made_here = len(missing) - len(waiting)
            left = (time.monotonic() - began) / made_here * len(waiting)
            progress("fits", len(found) / whole, f"{len(found)} of {whole}, {left / 60:.0f} min left")
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def unit(at: int, setting: Setting, n: int, repeats: int, seed: int) -> Unit:
    """All repeats of one setting at one size; the seed of each is (seed, setting, size, repeat)."""
    rows = [errors(setting, n, (seed, at, n, i)) for i in range(repeats)]
    return Unit(setting=setting.name, n=n, errors={name: [row[name] for row in rows] for name in rows[0]})


def _path(out: Path, at: int, n: int) -> Path:
    return out / UNITS / f"{at:02}-{n}.json"

"""A measured number with its unit, its interval and where it came from. Reports read these and run nothing."""

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError

from foveate.errors import InputError
from foveate.files import Told, read_text, write_text

Tag = str | int | float | bool | None | list[int] | list[float] | list[str]


class Result(Told):
    """`value` in `unit`; [low, high] is the interval at `level`; `n` is how many samples stand behind it.

    `tags` say what was measured (plan, runtime, precision, batch, split ...), `origin` where and with what
    (device, threads, versions, seed ...).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    level: float | None = None
    n: int | None = None
    tags: dict[str, Tag] = Field(default_factory=dict)
    origin: dict[str, Tag] = Field(default_factory=dict)

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.name} {self.value:.4g}{interval} {self.unit}"


def write_results(path: str | Path, results: Iterable[Result]) -> Path:
    """One JSON object a line."""
    return write_text(path, "".join(r.model_dump_json(exclude_none=True) + "\n" for r in results))


def read_results(path: str | Path) -> list[Result]:
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            rows.append(Result.model_validate(json.loads(line)))
        except (ValidationError, json.JSONDecodeError) as e:
            raise InputError(f"{path}, line {number} is not a result: {str(e).splitlines()[0]}") from None
    return rows

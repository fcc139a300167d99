"""The frontier of one set of weights on one device: operating points, with the latency, energy and quality measured."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from foveate.errors import InputError
from foveate.files import read_as, write_text
from foveate.plans import Step
from foveate.target import Target, lifted

FILE = "frontier.json"
Figure = Literal["top-1", "agreement", "same top-1", "kNN accuracy", "same neighbours", "mIoU", "same pixels"]
"""By kind of output, what is right by the labels, or without them what stays of the given model's answers; in files of
before there were kinds the latter is "agreement"."""


class Point(BaseModel):
    """One operating point: a plan's steps, the model file built from them, and what that file does on the device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[Step, ...]  # none: all tokens
    file: str  # of the model, relative to the frontier's folder
    tokens: tuple[int, ...]  # after every block
    gmacs: float = Field(ge=0)  # of one image
    latency_ms: float = Field(gt=0)  # median of a call, batch and all
    p99_ms: float | None = Field(default=None, gt=0)  # where there were samples enough for one
    share: float = Field(gt=0)  # of the first point's latency, from interleaved pairs
    share_low: float = Field(gt=0)  # 99 % interval
    share_high: float = Field(gt=0)
    quality: float = Field(ge=0, le=100)  # %, see `Frontier.figure`
    quality_low: float  # 95 % interval
    quality_high: float
    energy_mj: float = Field(ge=0)  # of one image, see `Frontier.energy`

    def __str__(self) -> str:
        what = ", ".join(map(str, self.steps)) or "all tokens"
        return f"{what}: {self.latency_ms:.3g} ms, {self.quality:.2f} %, {self.energy_mj:.3g} mJ"


class Frontier(BaseModel):
    """Operating points by falling latency: the first is the whole model, and no other is both slower and worse."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    target: Target
    figure: Figure  # what quality is
    images: int = Field(ge=1)  # photographs behind it, which no search has seen
    energy: Literal["measured", "modelled"]
    energy_source: str
    points: tuple[Point, ...] = Field(min_length=1)
    origin: dict[str, str | int | float | bool | list[str] | None] = {}  # device and versions

    @model_validator(mode="before")
    @classmethod
    def _read_first_schema(cls, data: Any) -> Any:
        return lifted(data)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.points[0].steps:
            raise ValueError("the first operating point is not the whole model")
        for a, b in zip(self.points, self.points[1:], strict=False):
            if b.latency_ms >= a.latency_ms:
                raise ValueError(f"points are not by falling latency: {a.latency_ms:g} ms, then {b.latency_ms:g}")
        return self

    def __len__(self) -> int:
        return len(self.points)

    @property
    def fastest(self) -> int:
        return len(self.points) - 1

    def within_ms(self, budget: float) -> int:
        """Index of the best point whose median latency is at most `budget`.

        Raises:
            InputError: where none is that fast; names the fastest.
        """
        return self._within(budget, "ms", lambda p: p.latency_ms)

    def within_mj(self, budget: float) -> int:
        """Index of the best point that takes at most `budget` an image.

        Raises:
            InputError: where none takes so little.
        """
        return self._within(budget, "mJ", lambda p: p.energy_mj)

    def at_level(self, level: float) -> int:
        """Index by a knob from 0 (the fastest) to 1 (the whole model), in equal steps of latency.

        Raises:
            InputError: for a level out of range.
        """
        if not 0 <= level <= 1:
            raise InputError(f"level is {level:g}; allowed: 0 to 1")
        low, high = self.points[-1].latency_ms, self.points[0].latency_ms
        return self.within_ms(low + level * (high - low))

    def _within(self, budget: float, unit: str, cost: Callable[[Point], float]) -> int:
        able = [i for i, p in enumerate(self.points) if cost(p) <= budget * (1 + 1e-9)]
        if not able:
            least = min(map(cost, self.points))
            raise InputError(f"budget is {budget:g} {unit}; allowed on this frontier: {least:.3g} {unit} or more")
        return max(able, key=lambda i: (self.points[i].quality, -self.points[i].latency_ms))

    def save(self, folder: str | Path) -> Path:
        return write_text(Path(folder) / FILE, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the frontier of a folder.

        Raises:
            InputError: where there is none, or it is damaged; names the file and the field.
        """
        return read_as(cls, Path(folder) / FILE, "is not a frontier")

"""What `fit` writes beside the model and reports read: one schema for writer and reader."""

import base64
import binascii
import io
from pathlib import Path
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from foveate.facts import Outputs
from foveate.files import Told, read_as, write_text

VERDICT, OVERLAYS = "verdict.json", "overlays.json"
PICTURES = ("JPEG", "PNG", "WEBP")


class _Written(Told):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Value(_Written):
    """A number with its interval and sample size."""

    name: str  # "drop", "changed": what the budget counts
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    level: float | None = None
    n: int | None = None


class BudgetKept(_Written):
    """What was asked for, and what the photographs say of it."""

    text: str
    outcome: Literal["shown", "observed", "broken"]
    said: str  # the outcome in words, with the number of photographs
    needed: int | None = None  # unseen photographs for `shown` with no changed answer; None where nothing is capped
    # The bounds themselves, each None where nothing is asked: no figure may be rounded to their other side.
    points: float | None = None  # that may be lost
    latency_ms: float | None = None  # at most
    speedup: float | None = None  # at least


class Milliseconds(_Written):
    """Of one build, from the pairs of the proof."""

    p50: float  # plain median
    p99: float | None  # by MLPerf's rule; None where the sample is too small
    n: int


class SpeedUp(_Written):
    """Median of paired ratios, dense over plan."""

    value: float
    low: float
    high: float
    level: float
    n: int


class Rung(_Written):
    """A step of the ladder: the fastest dense build in full precision, in int8 (where it lost), in any; the plan."""

    role: Literal["full", "int8", "any", "plan"]
    runtime: str
    precision: str
    latency_ms: float
    share: float  # of the first rung's latency
    cost: Value | None = None
    agreement: float | None = None  # % of answers that stay
    plan: str = "dense"


class Rejected(_Written):
    plan: str
    reason: str


class Verdict(_Written):
    """verdict.json. `schema_version` changes when a reader of an old file must care."""

    schema_version: Literal[2] = 2
    outcome: Literal["faster", "dense"]
    outputs: Outputs = "classes"
    class_token_only: bool | None = None  # is that all that is read after the last attention? None: not told
    reason: str  # one sentence: the claim, or why there is none
    baseline: str  # "the best dense build on this machine", or what narrowed the field
    narrowed: bool = False
    budget: BudgetKept
    budget_met: bool
    speedup: SpeedUp | None = None
    cost: Value | None = None
    agreement: Value | None = None
    latency_ms: dict[Literal["dense", "plan"], Milliseconds] = Field(default_factory=dict)
    ladder: tuple[Rung, ...] = ()
    warnings: tuple[str, ...] = ()  # a p99 that got worse, a machine that was not quiet
    next: tuple[str, ...] = ()  # commands
    rejected: tuple[Rejected, ...] = ()
    seconds: float
    stages: dict[str, float] = Field(default_factory=dict)
    random_weights: bool = False
    note: str | None = None
    command: str = ""

    def save(self, folder: Path) -> Path:
        return write_text(folder / VERDICT, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """
        Raises:
            InputError: where there is none, or it is none of ours; names the field.
        """
        return read_as(cls, Path(folder) / VERDICT, "is not a verdict")


class Photo(_Written):
    """A photograph as the model saw it, both builds' answers, and where every patch went in the reducing blocks."""

    name: str
    jpeg_base64: str
    dense: tuple[tuple[str | int, float], ...] = ()  # (label, share in 0..1), likeliest first; only classes have any
    reduced: tuple[tuple[str | int, float], ...] = ()
    dense_said: str = ""  # an answer in words where it has no labels: "cosine 0.987, 9 of 10 neighbours stay"
    reduced_said: str = ""
    dense_mask: str | None = None  # base64 of a PNG that covers the photograph, clear where nothing is found
    reduced_mask: str | None = None
    blocks: dict[int, list[int]] = Field(
        default_factory=dict
    )  # 0-based block -> [P]: token that holds each patch, -1 if dropped

    @property
    def jpeg(self) -> bytes:
        return base64.b64decode(self.jpeg_base64)

    @model_validator(mode="after")
    def _decodes(self) -> Self:
        for what, text in (
            ("", self.jpeg_base64),
            (", dense_mask", self.dense_mask),
            (", reduced_mask", self.reduced_mask),
        ):
            if text is not None:
                _check_picture(f"photograph {self.name!r}{what}", text)
        return self


class Overlays(_Written):
    """overlays.json: photographs with their answers and source maps."""

    grid: tuple[int, int]  # patch rows, patch columns
    images: tuple[Photo, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        h, w = self.grid
        for photo in self.images:
            for block, source in photo.blocks.items():
                if len(source) != h * w:
                    raise ValueError(
                        f"photograph {photo.name!r}, blocks[{block}]: {len(source)} patches; the grid has {h * w}"
                    )
        return self

    def save(self, folder: Path) -> Path:
        return write_text(folder / OVERLAYS, self.model_dump_json(exclude_defaults=True) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """
        Raises:
            InputError: where there are none, or they are none of ours; names the field.
        """
        return read_as(cls, Path(folder) / OVERLAYS)


def _check_picture(name: str, text: str) -> None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as image:
            if image.format not in PICTURES:
                raise ValueError(f"{name} is {image.format}; allowed: {', '.join(PICTURES)}")
    except (OSError, binascii.Error) as e:
        raise ValueError(f"{name} cannot be decoded: {e}") from None

"""What `foveate fit` left in a folder, as values. A missing part is None; a damaged one is an error that names it."""

import base64
import binascii
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from foveate.errors import InputError
from foveate.files import read_as
from foveate.plans import Plan
from foveate.result import Result, Tag, read_results

LOSS_SPLITS = ("unseen", "confirm", "search")  # best evidence first


class Measured(BaseModel):
    """The speed-up as `verdict.json` repeats it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    value: float | None = None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    n: int | None = None


class Verdict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    outcome: str = "dense"
    reason: str = ""
    speedup: Measured | None = None
    seconds: float | None = None
    random_weights: bool = False
    command: str | None = None
    budget: str | None = None
    note: str | None = None
    rejected: list[str] = []


class Photo(BaseModel):
    """A photograph as the model saw it, its likeliest classes, and where every patch went in the reducing blocks."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    jpeg_base64: str
    dense: list[tuple[str | int, float]] = []
    reduced: list[tuple[str | int, float]] = []
    blocks: dict[int, list[int]] = {}  # 0-based block -> [P]: token that holds each patch, -1 if dropped

    @property
    def jpeg(self) -> bytes:
        return base64.b64decode(self.jpeg_base64)

    @model_validator(mode="after")
    def _decodes(self) -> "Photo":
        from PIL import Image

        try:
            with Image.open(io.BytesIO(base64.b64decode(self.jpeg_base64, validate=True))) as image:
                if image.format not in ("JPEG", "PNG", "WEBP"):
                    raise ValueError(f"photograph {self.name!r} is {image.format}; allowed: JPEG, PNG, WEBP")
        except (OSError, binascii.Error) as e:
            raise ValueError(f"photograph {self.name!r} cannot be decoded: {e}") from None
        return self


class Overlays(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    grid: tuple[int, int]  # patch rows, patch columns
    images: list[Photo] = []

    @model_validator(mode="after")
    def _fits(self) -> "Overlays":
        h, w = self.grid
        for photo in self.images:
            for block, source in photo.blocks.items():
                if len(source) != h * w:
                    raise ValueError(
                        f"photograph {photo.name!r}, block {block}: {len(source)} patches; the grid has {h * w}"
                    )
        return self


Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Written:
    """A folder, read."""

    folder: Path
    plan: Plan
    results: list[Result]
    verdict: Verdict | None
    overlays: Overlays | None

    def find(self, name: str, **tags: Tag) -> list[Result]:
        """Finite results of this name whose tags have these values, in the order of the file."""
        return find(self.results, name, **tags)

    def first(self, name: str, **tags: Tag) -> Result | None:
        return next(iter(self.find(name, **tags)), None)

    def verified(self, name: str, **tags: Tag) -> Result | None:
        """The first such result of the final check, or of the search where there was no check."""
        return self.first(name, stage="verify", **tags) or self.first(name, **tags)

    def loss(self, name: str, **tags: Tag) -> Result | None:
        """The first such result on the photographs that are the best evidence there is."""
        for split in LOSS_SPLITS:
            if found := self.first(name, split=split, **tags):
                return found
        return self.first(name, **tags)

    @property
    def random_weights(self) -> bool:
        return self.plan.model.weights == "random" or (self.verdict is not None and self.verdict.random_weights)


def find(results: list[Result], name: str, **tags: Tag) -> list[Result]:
    return [r for r in results if r.name == name and all(r.tags.get(k) == v for k, v in tags.items())]


def read_folder(folder: str | Path) -> Written:
    """
    Raises:
        InputError: where there is no folder, `plan.json` or `results.jsonl` is missing, or any file is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; a report is made from a folder that `foveate fit` wrote")
    return Written(
        folder=folder,
        plan=Plan.load(folder / "plan.json"),
        results=read_results(folder / "results.jsonl"),
        verdict=_optional(folder / "verdict.json", Verdict),
        overlays=_optional(folder / "overlays.json", Overlays),
    )


def _optional(path: Path, kind: type[Model]) -> Model | None:
    return read_as(kind, path) if path.exists() else None

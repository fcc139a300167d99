"""A plan says everything needed to build a reduced model again: written as JSON, read by people and by `apply`."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from foveate.files import Told, read_as, write_text
from foveate.schedule import Schedule
from foveate.target import Target, lifted

Kwarg = bool | int | float | str | tuple[int, ...]  # of a model's constructor


MOST_BLOCKS, MOST_TOKENS = 512, 2**22  # past these it is no vision transformer, and a reader would be long busy


class Step(BaseModel):
    """One reduction: `method` leaves `tokens` tokens (prefix included) between attention and MLP of 0-based `block`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: int = Field(ge=0, lt=MOST_BLOCKS)
    method: str
    tokens: int = Field(ge=1, le=MOST_TOKENS)
    options: dict[str, bool | int | float | str] = {}

    def __str__(self) -> str:
        return f"{self.method} to {self.tokens} after block {self.block + 1}"


class ModelRef(Told):
    """Where the model came from, and what of it a schedule depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weights: Literal["bundled", "hub", "file", "random", "object"]
    sha256: str | None = None  # of the state dict's tensors, so that a plan is not applied to other weights unseen
    kwargs: dict[str, Kwarg] = Field(default_factory=dict)
    tokens: int = Field(ge=1, le=MOST_TOKENS)
    depth: int = Field(ge=1, le=MOST_BLOCKS)
    prefix: int = Field(ge=0, le=MOST_TOKENS)


class Plan(BaseModel):
    """Model, steps and how they are to be run. `schema_version` changes when a reader of an old file must care."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    model: ModelRef
    steps: tuple[Step, ...] = ()
    target: Target = Target()
    planner: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_first_schema(cls, data: Any) -> Any:
        return lifted(data)

    @model_validator(mode="after")
    def _check(self) -> Self:
        blocks = [s.block for s in self.steps]
        if blocks != sorted(set(blocks)):
            raise ValueError(f"steps must name each block once, in order; got blocks {blocks}")
        _ = self.schedule  # raises where it grows or leaves too few
        return self

    @property
    def schedule(self) -> Schedule:
        m = self.model
        return Schedule.cut(m.tokens, m.depth, {s.block: s.tokens for s in self.steps}, m.prefix)

    @property
    def dense(self) -> bool:
        """True where nothing is reduced."""
        return not self.steps

    def summary(self) -> str:
        """One line: `tome to 150 after block 4, ... on openvino bf16`."""
        what = ", ".join(map(str, self.steps)) or "dense, no reduction"
        return f"{what}; {self.target}"

    def save(self, path: str | Path) -> Path:
        return write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a plan, or the `plan.json` of a folder.

        Raises:
            InputError: where there is none, or it is not one; names the file and the field.
        """
        path = Path(path)
        path = path / "plan.json" if path.is_dir() else path
        return read_as(cls, path, "is not a plan")

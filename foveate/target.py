"""Where a model runs, and how: one value, wherever latency is asked for, measured or written down."""

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from foveate.errors import InputError

Precision = Literal["fp32", "bf16", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DEVICE = re.compile(r"cpu|cuda(:\d{1,2})?")
MOST = {"batch": 4096, "threads": 1024}


def _device(name: str) -> str:
    if not DEVICE.fullmatch(name):
        raise ValueError(f"{name!r} is no device; allowed: cpu, cuda or cuda:N")
    return name


class Target(BaseModel):
    """Device, runtime, precision, batch and threads. Whether this machine has them is for `foveate.runtimes` to say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Annotated[str, AfterValidator(_device)] = "cpu"
    runtime: str = "eager"
    precision: Precision = "fp32"
    batch: int = Field(default=1, ge=1, le=MOST["batch"])  # images a call
    threads: int | None = Field(default=None, ge=1, le=MOST["threads"])  # None: one a core that we may use

    @classmethod
    def of(cls, **fields: object) -> Self:
        """As the constructor, for what a person wrote.

        Raises:
            InputError: names the field, its value and what is allowed.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as e:
            first = e.errors()[0]
            name = ".".join(map(str, first["loc"])) or "target"
            said = first["msg"].removeprefix("Value error, ")
            if name in MOST and first["type"] in ("greater_than_equal", "less_than_equal"):
                said = f"allowed: 1 to {MOST[name]}"
            raise InputError(f"--{name} is {first['input']!r:.80}; {said}") from None

    @property
    def kind(self) -> str:
        """The device without its number: "cpu" or "cuda"."""
        return self.device.partition(":")[0]

    @property
    def index(self) -> int:
        """The device's number, 0 where none is given."""
        return int(self.device.partition(":")[2] or 0)

    def __str__(self) -> str:
        where = "" if self.device == "cpu" else f" on {self.device}"
        return f"{self.runtime} {self.precision}{where}, batch {self.batch}"


def lifted(data: Any) -> Any:
    """Fields of schema 1, in which the target's stood among a file's own, as schema 2; others as they are.

    So is what a caller names plainly: `Plan(model=..., steps=..., runtime="onnxruntime", precision="fp32")`.
    """
    if not isinstance(data, dict):
        return data
    plain = "target" not in data and any(name in Target.model_fields for name in data)
    if data.get("schema_version") != 1 and not (plain and "schema_version" not in data):
        return data
    flat = {k: v for k, v in data.items() if k in Target.model_fields}
    rest = {k: v for k, v in data.items() if k not in Target.model_fields}
    return {**rest, "schema_version": 2, "target": flat}

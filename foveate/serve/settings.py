"""The options of a server, checked; also how worker processes get them."""

import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from foveate.errors import InputError, one_of
from foveate.target import DEVICE

LEVELS = ("debug", "info", "warning", "error")
TOKEN = "FOVEATE_TOKEN"
WORKER = "FOVEATE_SERVE"  # how a worker gets the rest, as JSON; the token is never in there


@dataclass(frozen=True)
class Settings:
    """What `foveate serve` takes.

    Raises:
        InputError: for a value out of range; names the option and what is allowed.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any that is free
    name: str | None = None  # of the model in URLs; by default the plan's
    slo_ms: float | None = None  # a request's whole time in the server
    point: int | None = None
    batch_ms: float = 2.0
    queue: int = 256  # images that may wait
    max_body_mb: float = 32.0
    max_megapixels: float = 50.0  # of a photograph, from its header, before it is decoded
    receive_s: float = 30.0
    drain_s: float = 30.0
    token: str | None = None
    workers: int = 1
    device: str | None = None  # by default the plan's
    threads: int | None = None
    trust: bool = False  # open a model file that is a program, whoever made it
    log_level: str = "info"

    def __post_init__(self) -> None:
        if self.slo_ms is not None and self.point is not None:
            raise InputError(f"--slo-ms {self.slo_ms:g} and --point {self.point}: give one, not both")
        if self.slo_ms is not None and not self.slo_ms > 0:
            raise InputError(f"--slo-ms is {self.slo_ms:g}; allowed: above 0")
        ranges = (("port", 0, 65535), ("batch_ms", 0, 10_000), ("queue", 1, 65536), ("max_body_mb", 0.001, 1024),
                  ("max_megapixels", 0.001, 89), ("receive_s", 0.1, 3600), ("drain_s", 0, 3600), ("workers", 1, 64),
                  ("threads", 1, 1024))  # fmt: skip
        for name, low, high in ranges:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"--{name.replace('_', '-')} is {value:g}; allowed: {low:g} to {high:g}")
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", self.name):
            raise InputError(f"--name is {self.name!r}; allowed: 1 to 128 letters, digits, dots, dashes, underscores")
        if self.device is not None and not DEVICE.fullmatch(self.device):
            raise InputError(f"--device is {self.device!r}; allowed: cpu, cuda or cuda:N")
        if self.log_level not in LEVELS:
            raise one_of("--log-level", self.log_level, LEVELS)
        if self.token is not None and not re.fullmatch(r"[!-~]{1,512}", self.token):
            raise InputError("--token holds something other than 1 to 512 visible ASCII characters")

    @property
    def max_body_bytes(self) -> int:
        return int(self.max_body_mb * 2**20)

    @property
    def max_pixels(self) -> int:
        return int(self.max_megapixels * 1e6)

    @property
    def in_flight(self) -> int:
        """Requests that may be under way: those who wait, and as many as may be received and decoded meanwhile."""
        return self.queue + 64

    def to_environment(self) -> None:
        """For worker processes, which inherit the environment."""
        rest = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items() if k != "token"}
        os.environ[WORKER] = json.dumps(rest)
        if self.token is not None:
            os.environ[TOKEN] = self.token

    @classmethod
    def from_environment(cls) -> "Settings":
        known = {f.name for f in fields(cls)}
        rest = {k: v for k, v in json.loads(os.environ[WORKER]).items() if k in known}
        return cls(**rest | {"folder": Path(rest["folder"]), "token": os.environ.get(TOKEN)})

"""How long a token takes in a multiplying and in a shifting expert, as a runtime will serve them."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from foveate.hardware.timer import Speedup, speedup
from foveate.linears import ShiftLinear, for_inference
from foveate.linears._base import with_layers
from foveate.runtimes import RUNTIMES, Worker
from foveate.staging import scratch
from foveate.target import Target

ROUNDS = 60
EXPERTS = ("multiply", "shift")


@dataclass(frozen=True)
class ExpertLatency:
    """Of the same tokens; `ratio` is how many times as long multiplication takes, with its interval."""

    tokens: int
    multiply_ms: float
    shift_ms: float
    ratio: Speedup

    def line(self) -> str:
        """For the user."""
        r = self.ratio
        return (
            f"{self.tokens} tokens take {self.multiply_ms:.3g} ms by multiplication and {self.shift_ms:.3g} ms by "
            f"shifts: {r.value:.2f} times as long [{r.low:.2f}, {r.high:.2f}]"
        )


def expert_latency(
    part: nn.Module, width: int, tokens: int, target: Target, *, rounds: int = ROUNDS, **options: Any
) -> ExpertLatency:
    """Time both experts that a mixture makes of `part`, by turns in one process of the runtime.

    Args:
        part: an MLP or a linear layer, on tokens of `width` channels.
        tokens: as many as an expert is likely to get.
        target: threads set. Its precision is that of the whole build: in int8 both experts compute in integers.
        options: of `ShiftLinear`.

    Raises:
        NotAvailable: the runtime or precision is not there.
    """
    assert target.threads is not None
    found = {
        "multiply": copy.deepcopy(part),
        "shift": with_layers(nn.Sequential(part), lambda layer: ShiftLinear.of(layer, **options)),
    }
    lot = np.random.default_rng(0)
    shape = (target.batch, tokens, width)
    x = lot.standard_normal(shape, dtype=np.float32)
    calibration = lot.standard_normal((4 * target.batch, *shape[1:]), dtype=np.float32)
    runtime = RUNTIMES[target.runtime]
    with scratch() as folder, Worker(target.runtime, target.threads, target.device) as worker:
        for name, expert in found.items():
            made = _Alone(for_inference(expert)).eval()
            where = Path(folder) / name
            where.mkdir()
            file = runtime.build(
                made, where, shape=shape, precision=target.precision, device=target.device,
                calibration=calibration if target.precision == "int8" else None,
            )  # fmt: skip
            worker.load(name, file, precision=target.precision)
        ms = worker.time(list(EXPERTS), [x, x], rounds=rounds, warmup=5, seed=0)
    multiply, shift = (float(np.median(row)) for row in ms)
    return ExpertLatency(tokens, multiply, shift, speedup(ms[0], ms[1]))


class _Alone(nn.Module):
    """A part by itself."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)  # type: ignore[no-any-return]

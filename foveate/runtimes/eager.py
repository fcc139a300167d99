"""Plain torch: the file is a `torch.export` program, run operator by operator; on a GPU replayed as a CUDA graph.

The file is the same for every device: weights, constants and what is made inside are moved when it is loaded.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foveate.files import unfailing
from foveate.runtimes import _torch
from foveate.runtimes._base import RUNTIMES, Runner, Runtime, Shape
from foveate.target import Target

if TYPE_CHECKING:
    from torch import nn


@RUNTIMES.register("eager")
class Eager(Runtime):
    kinds = ("fp32", "bf16", "fp16")
    devices = ("cpu", "cuda")
    packages = ("torch",)
    suffix = ".pt2"

    @classmethod
    def _why_not(cls, precision: str, device: str) -> str | None:
        return _torch.why_not(precision, device)

    @classmethod
    def device_facts(cls, device: str) -> dict[str, Any]:
        return _torch.device_facts(device)

    @classmethod
    def _build(
        cls, model: "nn.Module", target: Path, *, shape: Shape, precision: str, device: str,
        calibration: np.ndarray | None,
    ) -> None:  # fmt: skip
        import torch

        from foveate.runtimes._export import program, quiet

        exported = program(model, shape, precision)
        with quiet(), unfailing(target) as file:
            torch.export.save(exported, file)  # type: ignore[arg-type]

    @classmethod
    def _load(cls, path: Path, *, precision: str, threads: int, device: str, shape: tuple[int, ...] | None) -> Runner:
        import torch

        from foveate.runtimes._export import input_shape, moved, quiet

        torch.set_num_threads(threads)
        where = Target(device=device)
        with quiet():
            exported = torch.export.load(path)
            takes = input_shape(exported)
            if where.kind == "cuda":
                exported = moved(exported, where)
            module = exported.module(check_guards=False)  # `Runner` checks shapes, once and in words
        return _torch.runner(module, takes, where)

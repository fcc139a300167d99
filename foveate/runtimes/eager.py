"""Plain torch: the file is a `torch.export` program, run operator by operator."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foveate.runtimes._base import RUNTIMES, Runner, Runtime, Shape, missing, no_bf16

if TYPE_CHECKING:
    from torch import nn


@RUNTIMES.register("eager")
class Eager(Runtime):
    kinds = ("fp32", "bf16")
    packages = ("torch",)
    suffix = ".pt2"

    @classmethod
    def _why_not(cls, precision: str) -> str | None:
        return missing("torch") or (no_bf16() if precision == "bf16" else None)

    @classmethod
    def _build(
        cls, model: "nn.Module", target: Path, *, shape: Shape, precision: str, calibration: np.ndarray | None
    ) -> None:
        import torch

        from foveate.runtimes._export import program, quiet

        exported = program(model, shape, precision)
        with quiet():
            torch.export.save(exported, target)

    @classmethod
    def _load(cls, path: Path, *, precision: str, threads: int, shape: tuple[int, ...] | None) -> Runner:
        import torch

        from foveate.runtimes._export import input_shape, quiet

        torch.set_num_threads(threads)
        with quiet():
            exported = torch.export.load(path)
            module = exported.module(check_guards=False)  # `Runner` checks shapes, once and in words

        @torch.inference_mode()
        def call(x: np.ndarray) -> np.ndarray:
            return module(as_tensor(x)).numpy()

        return Runner(call, input_shape(exported))


def as_tensor(x: np.ndarray):  # type: ignore[no-untyped-def]
    """Shares memory; a read-only array is copied, since torch has no read-only tensors."""
    import torch

    return torch.from_numpy(x if x.flags.writeable else x.copy())

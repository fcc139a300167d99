"""torch's compiler, ahead of time (AOTInductor): the file is a package of machine code for this kind of CPU.

Weights are folded and packed when compiling (`freezing`). Autotuning stays off: on CPUs it multiplies the build's time.
The thread count stays open in the machine code, so that one file serves any.
"""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foveate.runtimes._base import RUNTIMES, Runner, Runtime, Shape, missing, no_bf16
from foveate.runtimes.worker import convert

if TYPE_CHECKING:
    from torch import nn

COMPILERS = ("g++", "c++", "clang++")


@RUNTIMES.register("compile")
class Compile(Runtime):
    kinds = ("fp32", "bf16")
    packages = ("torch",)
    suffix = ".pt2"

    @classmethod
    def _why_not(cls, precision: str) -> str | None:
        if (reason := missing("torch")) is not None:
            return reason
        if not any(map(shutil.which, COMPILERS)):
            return f"no C++ compiler found (looked for {', '.join(COMPILERS)}): install g++"
        return no_bf16() if precision == "bf16" else None

    @classmethod
    def _build(
        cls, model: "nn.Module", target: Path, *, shape: Shape, precision: str, calibration: np.ndarray | None
    ) -> None:
        import torch

        from foveate.runtimes._export import program, quiet

        graph = target.parent.parent / "graph.pt2"
        exported = program(model, shape, precision)
        with quiet():
            torch.export.save(exported, graph)
        del exported
        convert("compile", graph, target, precision)  # elsewhere: the compiler keeps what it took

    @classmethod
    def convert(cls, graph: Path, target: Path, precision: str, calibration: np.ndarray | None) -> None:
        import torch
        import torch._inductor

        from foveate.runtimes._export import input_shape

        exported = torch.export.load(graph)
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                exported,
                package_path=str(target),
                inductor_configs={
                    "freezing": True,
                    "cpp.dynamic_threads": True,
                    "aot_inductor.metadata": {"shape": json.dumps(input_shape(exported))},
                },
            )

    @classmethod
    def _load(cls, path: Path, *, precision: str, threads: int, shape: tuple[int, ...] | None) -> Runner:
        import torch
        import torch._inductor

        from foveate.runtimes._export import quiet
        from foveate.runtimes.eager import as_tensor

        torch.set_num_threads(threads)
        with quiet():
            module = torch._inductor.aoti_load_package(str(path))
        takes = json.loads(module.loader.get_metadata()["shape"])  # type: ignore[attr-defined]

        @torch.inference_mode()
        def call(x: np.ndarray) -> np.ndarray:
            return module(as_tensor(x)).numpy()

        return Runner(call, tuple(takes))

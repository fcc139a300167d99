"""torch's compiler, ahead of time (AOTInductor): the file is a package of machine code for this kind of CPU or GPU.

For a CPU, weights are folded and packed when compiling (`freezing`). Autotuning stays off: it multiplies the build's
time. The thread count stays open in the machine code, so that one file serves any.

On a GPU the package runs under a CUDA graph of ours (`_cuda`): Inductor's own, `triton.cudagraphs`, wrap its Python
code and not a package. For that it is loaded without the locks and events that several threads would need.
"""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foveate.errors import InputError
from foveate.runtimes import _torch
from foveate.runtimes._base import RUNTIMES, Runner, Runtime, Shape, missing
from foveate.runtimes.worker import convert
from foveate.target import Target

if TYPE_CHECKING:
    from torch import nn

COMPILERS = ("g++", "c++", "clang++")
USUAL_TOOLKIT = Path("/usr/local/cuda")


@RUNTIMES.register("compile")
class Compile(Runtime):
    kinds = ("fp32", "bf16", "fp16")
    devices = ("cpu", "cuda")
    packages = ("torch",)
    suffix = ".pt2"

    @classmethod
    def _why_not(cls, precision: str, device: str) -> str | None:
        if (reason := _torch.why_not(precision, device)) is not None:
            return reason
        if not any(map(shutil.which, COMPILERS)):
            return f"no C++ compiler found (looked for {', '.join(COMPILERS)}): install g++"
        return no_toolkit() if Target(device=device).kind == "cuda" else None

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

        graph = target.parent.parent / "graph.pt2"
        exported = program(model, shape, precision)
        with quiet():
            torch.export.save(exported, graph)
        del exported
        convert("compile", graph, target, precision, device=device)  # elsewhere: the compiler keeps what it took

    @classmethod
    def convert(cls, graph: Path, target: Path, precision: str, calibration: np.ndarray | None, device: str) -> None:
        import torch
        import torch._inductor

        from foveate.runtimes._export import input_shape, moved

        exported, where = torch.export.load(graph), Target(device=device)
        about = {"shape": json.dumps(input_shape(exported)), "device": where.kind}
        options: dict[str, Any] = {"aot_inductor.metadata": about}
        if where.kind == "cuda":
            exported = moved(exported, where)
        else:
            options |= {"freezing": True, "cpp.dynamic_threads": True}
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(exported, package_path=str(target), inductor_configs=options)

    @classmethod
    def _load(cls, path: Path, *, precision: str, threads: int, device: str, shape: tuple[int, ...] | None) -> Runner:
        import torch
        import torch._inductor

        from foveate.runtimes._export import quiet

        torch.set_num_threads(threads)
        where = Target(device=device)
        on_gpu = where.kind == "cuda"
        with quiet():
            module = torch._inductor.aoti_load_package(
                str(path), run_single_threaded=on_gpu, device_index=where.index if on_gpu else -1
            )
        about = module.loader.get_metadata()  # type: ignore[attr-defined]
        check_kind(path, about, where)
        return _torch.runner(module, tuple(json.loads(about["shape"])), where)


def check_kind(path: Path, about: dict[str, str], where: Target) -> None:
    """Raise InputError where the package was compiled for another kind of device: it would run there, unseen."""
    if (made := about.get("device", Target().kind)) != where.kind:
        raise InputError(f"{path} was compiled for {made}, not for {where.kind}; build it again")


def no_toolkit() -> str | None:
    """Why a package for a GPU cannot be compiled: torch's compiler writes kernels with Triton, and C++ against CUDA's
    headers, which it looks for where the environment says, beside nvcc, and in the usual place."""
    if (reason := missing("triton")) is not None:
        return reason
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named or shutil.which("nvcc") or USUAL_TOOLKIT.exists():
        return None
    return f"no CUDA toolkit found (looked at CUDA_HOME, CUDA_PATH, nvcc and {USUAL_TOOLKIT}): its headers are needed"

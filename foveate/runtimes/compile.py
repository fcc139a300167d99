"""torch's compiler, Inductor.

On a CPU it works ahead of time (AOTInductor): the file is a package of machine code for this kind of CPU. Weights are
folded and packed when compiling (`freezing`). Autotuning stays off: it multiplies the build's time. The thread count
stays open in the machine code, so that one file serves any.

On a GPU the file is the `torch.export` program, and is compiled when it is loaded; Inductor keeps its kernels in a
cache for the next time. Packages were tried there (torch 2.11, H100): each took two minutes to make, most of it
for C++ around the kernels, and loading one ended the process. CUDA graphs are ours (`_cuda`), as for `eager`.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foveate.errors import InputError
from foveate.files import unfailing
from foveate.runtimes import _torch
from foveate.runtimes._base import RUNTIMES, Runner, Runtime, Shape, missing
from foveate.runtimes.worker import convert
from foveate.staging import scratch
from foveate.target import Target

if TYPE_CHECKING:
    import torch
    from torch import nn

COMPILERS = ("g++", "c++", "clang++")


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
        return missing("triton") if Target(device=device).kind == "cuda" else None

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

        on_gpu = Target(device=device).kind == "cuda"
        graph = target if on_gpu else target.parent.parent / "graph.pt2"
        exported = program(model, shape, precision)
        with quiet(), unfailing(graph) as file:
            torch.export.save(exported, file)  # type: ignore[arg-type]
        del exported
        if not on_gpu:
            convert("compile", graph, target, precision, device=device)  # elsewhere: the compiler keeps what it took

    @classmethod
    def convert(cls, graph: Path, target: Path, precision: str, calibration: np.ndarray | None, device: str) -> None:
        import torch
        import torch._inductor

        from foveate.runtimes._export import input_shape

        exported = torch.export.load(graph)
        options: dict[str, Any] = {
            "aot_inductor.metadata": {"shape": json.dumps(input_shape(exported))},
            "freezing": True, "cpp.dynamic_threads": True,
        }  # fmt: skip
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(exported, package_path=str(target), inductor_configs=options)

    @classmethod
    def _load(cls, path: Path, *, precision: str, threads: int, device: str, shape: tuple[int, ...] | None) -> Runner:
        import torch
        import torch._inductor

        from foveate.runtimes._export import input_shape, moved, quiet

        torch.set_num_threads(threads)
        where = Target(device=device)
        check_kind(path, where)
        with quiet():
            if where.kind == "cuda":
                exported = torch.export.load(path)
                takes = input_shape(exported)
                module = compiled(moved(exported, where).module(check_guards=False), is_open=None in takes)
            else:
                with _unpacking():
                    module = torch._inductor.aoti_load_package(str(path))
                takes = tuple(json.loads(module.loader.get_metadata()["shape"]))  # type: ignore[attr-defined]
        run = _torch.runner(module, takes, where)
        fixed = [n for n in takes if n is not None]
        if where.kind == "cuda" and len(fixed) == len(takes):
            with quiet():
                run(np.zeros(fixed, np.float32))  # compiles: the first photograph should not wait for that
        return run


@contextmanager
def _unpacking() -> Iterator[None]:
    """torch unpacks a package where temporary files go, and removes that when the process ends, unless it is killed:
    here it is gone once loaded (what is open stays), and swept where even that was not reached."""
    before = os.environ.get("TMPDIR")
    with scratch() as folder:
        os.environ["TMPDIR"] = str(folder)
        try:
            yield
        finally:
            os.environ.pop("TMPDIR") if before is None else os.environ.__setitem__("TMPDIR", before)


def compiled(module: "nn.Module", is_open: bool) -> "Callable[[torch.Tensor], torch.Tensor]":
    """`module` through Inductor, when it is first called: for one shape, or once for all where it `is_open`."""
    import torch

    return torch.compile(module, fullgraph=True, dynamic=is_open)


def check_kind(path: Path, where: Target) -> None:
    """Raise InputError where the file was made for another kind of device: it would run there, unseen."""
    try:
        with zipfile.ZipFile(path) as archive:
            package = any("/aotinductor/" in name for name in archive.namelist())
    except zipfile.BadZipFile:
        raise InputError(f"{path} is no file of torch's: it is damaged, or something else") from None
    made = "cpu" if package else "cuda"
    if made != where.kind:
        raise InputError(f"{path} was compiled for {made}, not for {where.kind}; build it again")

"""A module on a GPU as one call from host to host: a CUDA graph a shape, between fixed buffers.

Launching a kernel costs the host some microseconds, a whole transformer's hundreds more than a small one takes to run.
A graph launches all of them at once, so that a model with fewer tokens is faster also where the launches would rule.
It reads and writes the same memory every time: the input is copied there first and the output from there after.

Float32 is left as torch has it by default: products in full, convolutions (of a ViT the patch embedding) in TF32.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from foveate.runtimes._torch import as_tensor

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WARM_UP = 3  # runs before the capture: libraries choose kernels and take their workspaces in the first


class Captured(NamedTuple):
    """One shape's graph and its buffers: on the device, and in pinned memory on the host."""

    replay: Callable[[], None]
    input: "Tensor"
    output: "Tensor"
    host_input: "Tensor"
    host_output: "Tensor"


class Replay:
    """`module`, whose weights lie on `device`, captured when a shape is first seen; not for several threads."""

    def __init__(self, module: Callable[["Tensor"], "Tensor"], device: str) -> None:
        import torch

        self.module, self.device = module, torch.device(device)
        self.captured: dict[tuple[int, ...], Captured] = {}
        self.pool: object = None  # scratch memory, shared by the graphs: only one of them runs at a time

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Copy in, run, copy out, wait."""
        import torch

        with torch.inference_mode():
            c = self._captured(x.shape)
            c.host_input.copy_(as_tensor(x))
            c.input.copy_(c.host_input, non_blocking=True)
            c.replay()
            c.host_output.copy_(c.output, non_blocking=True)
            wait(self.device)
            return c.host_output.numpy().copy()

    def resident(self, x: np.ndarray) -> Callable[[], None]:
        """Copy in now; the call returned runs and waits, and copies nothing."""
        import torch

        with torch.inference_mode():
            c = self._captured(x.shape)
            c.input.copy_(as_tensor(x))
            wait(self.device)

        def call() -> None:
            c.replay()
            wait(self.device)

        return call

    def _captured(self, shape: tuple[int, ...]) -> Captured:
        import torch

        if shape not in self.captured:
            buffer = torch.zeros(shape, device=self.device)
            replay, output, self.pool = capture(self.module, buffer, self.pool)
            if output.device != buffer.device:
                raise RuntimeError(f"the model's output is on {output.device}: it does not run on {self.device}")
            self.captured[shape] = Captured(replay, buffer, output, pinned(buffer), pinned(output))
        return self.captured[shape]


def capture(
    module: Callable[["Tensor"], "Tensor"], buffer: "Tensor", pool: object
) -> tuple[Callable[[], None], "Tensor", object]:
    """(replay, output, memory pool) of `module` on `buffer`, captured after a warm-up on a stream of its own."""
    import torch

    with torch.cuda.device(buffer.device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                module(buffer)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):  # type: ignore[arg-type]
            output = module(buffer)
    return graph.replay, output, graph.pool()


def pinned(like: "Tensor") -> "Tensor":
    """Host memory that the device copies from and to without a detour."""
    import torch

    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)


def wait(device: "torch.device") -> None:
    """Until everything that was launched is done."""
    import torch

    torch.cuda.synchronize(device)

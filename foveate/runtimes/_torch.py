"""What the runtimes made of torch share: the devices and precisions there are here, and a loaded module as a call."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from foveate.hardware.device import gpu_driver
from foveate.runtimes._base import Runner, Shape, first_line, missing, no_bf16
from foveate.target import Target

if TYPE_CHECKING:
    import torch

BF16_CAPABILITY = (8, 0)  # of NVIDIA's GPUs: Ampere


def why_not(precision: str, device: str) -> str | None:
    """Why torch cannot run `precision` on `device` of this machine; None where it can."""
    if (reason := missing("torch")) is not None:
        return reason
    if Target(device=device).kind == "cuda":
        return no_gpu(device) or (gpu_without_bf16(device) if precision == "bf16" else None)
    if precision == "fp16":
        return "fp16 is for cuda alone: CPUs that compute in it are rare"
    return no_bf16() if precision == "bf16" else None


def no_gpu(device: str) -> str | None:
    """Why there is no such GPU for this torch; None where there is. Where the driver tells, CUDA is not initialised."""
    import torch

    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) was built without CUDA"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say comes back as the reason
        count = torch.cuda.device_count()
        if not count:
            return f"no GPU found: {_reason()}"
    if Target(device=device).index >= count:
        return f"there is no {device} here; GPUs found: {count}, from cuda:0 on"
    return None


def gpu_without_bf16(device: str) -> str | None:
    import torch

    has = torch.cuda.get_device_capability(Target(device=device).index)
    if has >= BF16_CAPABILITY:
        return None
    return f"bf16 needs compute capability {_dotted(BF16_CAPABILITY)} (Ampere or newer); {device} has {_dotted(has)}"


def device_facts(device: str) -> dict[str, Any]:
    """Of a GPU that this process uses: its name, capability, versions, and the memory that torch holds there."""
    if Target(device=device).kind != "cuda":
        return {}
    import torch

    index = Target(device=device).index
    return {
        "name": torch.cuda.get_device_name(index),
        "capability": _dotted(torch.cuda.get_device_capability(index)),
        "cuda": torch.version.cuda,
        "driver": gpu_driver(index),
        "allocated_bytes": torch.cuda.memory_allocated(index),
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(index),
    }


def runner(module: Callable[["torch.Tensor"], "torch.Tensor"], shape: Shape, where: Target) -> Runner:
    """`module`, which lies on `where`'s device, as a call from array to array."""
    import torch

    if where.kind == "cuda":
        from foveate.runtimes._cuda import Replay

        replay = Replay(module, gpu(where))
        return Runner(replay, shape, replay.resident)

    @torch.inference_mode()
    def call(x: np.ndarray) -> np.ndarray:
        return module(as_tensor(x)).numpy()

    return Runner(call, shape)


def gpu(where: Target) -> str:
    """torch's name of a GPU, with its number: "cuda" alone is whichever one is current."""
    return f"cuda:{where.index}"


def as_tensor(x: np.ndarray) -> "torch.Tensor":
    """Shares memory; a read-only array is copied, since torch has no read-only tensors."""
    import torch

    return torch.from_numpy(x if x.flags.writeable else x.copy())


def _reason() -> str:
    """What torch says when it is asked to start CUDA all the same."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as e:
        return first_line(e).partition(". ")[0].rstrip(".")
    return "the driver shows none"


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))

"""How fast this machine can go at all: the best of a few large matrix products and copies, run here and now.

So that a report can say how far a model stays below the limit. A measured peak is a lower bound of the real one.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from foveate.hardware.device import default_threads
from foveate.result import Result
from foveate.target import Target

KINDS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # torch's names
SMALLER = 4  # by which a product is tried smaller first: a precision that is emulated takes a minute for a large one
Progress = Callable[[float, str], None]


def measure_peaks(
    *,
    threads: int | None = None,
    device: str = Target().device,
    seconds: float = 0.5,
    size: int | None = None,
    copy_mib: int | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Peak of a large matrix product (GFLOP/s, one multiply-add is two) and of a large copy (GB/s, read plus write).

    With torch where it can be imported (`threads` threads; fp32 and bf16, on a GPU fp16 as well, where fp32 is torch's
    default: without TF32), else with numpy on the CPU (fp32, its own threads).
    Each takes about `seconds`; `n` of a result is how many runs its best was taken from. `size` and `copy_mib` are as
    large as no cache of the device; where a product would take much longer than `seconds`, a smaller one is measured.
    `progress` is called before each with (share done, text).
    """
    threads, on_gpu = threads or default_threads(), Target.of(device=device).kind == "cuda"
    size, copy_mib = size or (8192 if on_gpu else 1536), copy_mib or (1024 if on_gpu else 128)
    tell = progress or (lambda share, text: None)
    try:
        import torch
    except ImportError:
        return _with_numpy(seconds, size, copy_mib)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    wait = (lambda: torch.cuda.synchronize(device)) if on_gpu else (lambda: None)
    tags = {"by": "torch", "threads": threads, "device": device}
    names, found = [n for n in KINDS if on_gpu or n != "fp16"], []
    try:
        for i, name in enumerate(names):
            tell(i / (len(names) + 1), f"{name} matrix product on {device}")
            make = partial(_product, torch, getattr(torch, KINDS[name]), device, wait)
            n = _bearable(make, size, seconds)
            found.append(_matmul(make(n), seconds, n, name, tags))
        tell(len(names) / (len(names) + 1), f"copy on {device}")
        source = torch.ones(copy_mib << 18, dtype=torch.float32, device=device)
        target = torch.zeros_like(source)
        found.append(_copy(lambda: (target.copy_(source), wait()), seconds, copy_mib, tags))
        return found
    finally:
        torch.set_num_threads(before)


def _product(torch: Any, kind: Any, device: str, wait: Callable[[], None], n: int) -> Callable[[], object]:
    a, b = (torch.ones(n, n, dtype=kind, device=device) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: (torch.mm(a, b, out=out), wait())


def _bearable(make: Callable[[int], Callable[[], object]], size: int, seconds: float) -> int:
    """`size`, or a `SMALLER`th of it where one product of it would take four times the time for all."""
    if (small := size // SMALLER) < 1:
        return size
    best, _ = best_of(make(small), seconds / 10)
    return size if best * SMALLER**3 <= 4 * seconds else small


def _with_numpy(seconds: float, size: int, copy_mib: int) -> list[Result]:
    a, out = np.ones((size, size), np.float32), np.empty((size, size), np.float32)
    source, target = np.ones(copy_mib << 18, np.float32), np.zeros(copy_mib << 18, np.float32)
    tags = {"by": "numpy", "threads": None, "device": Target().device}
    return [
        _matmul(lambda: np.matmul(a, a, out=out), seconds, size, "fp32", tags),
        _copy(lambda: np.copyto(target, source), seconds, copy_mib, tags | {"threads": 1}),
    ]


def _matmul(run: Callable[[], object], seconds: float, size: int, kind: str, tags: dict[str, Any]) -> Result:
    best, n = best_of(run, seconds)
    what = {"what": f"{size} x {size} matrix product", "precision": kind}
    return Result(name=f"peak_matmul_{kind}", value=2 * size**3 / best / 1e9, unit="GFLOP/s", n=n, tags=what | tags)


def _copy(run: Callable[[], object], seconds: float, mib: int, tags: dict[str, Any]) -> Result:
    best, n = best_of(run, seconds)
    what = {"what": f"copy of {mib} MiB, bytes read plus bytes written"}
    return Result(name="peak_copy", value=2 * mib * 2**20 / best / 1e9, unit="GB/s", n=n, tags=what | tags)


def best_of(run: Callable[[], object], seconds: float) -> tuple[float, int]:
    """(shortest time of a run in seconds, runs), the first run not counted."""
    run()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times), len(times)

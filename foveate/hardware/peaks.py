"""How fast this machine can go at all: the best of a few large matrix products and copies, run here and now.

So that a report can say how far a model stays below the limit. A measured peak is a lower bound of the real one.
"""

import time
from collections.abc import Callable

import numpy as np

from foveate.hardware.device import default_threads
from foveate.result import Result


def measure_peaks(
    *, threads: int | None = None, seconds: float = 0.5, size: int = 1536, copy_mib: int = 128
) -> list[Result]:
    """Peak of a large matrix product (GFLOP/s, one multiply-add is two) and of a large copy (GB/s, read plus write).

    With torch where it can be imported (fp32 and bf16, `threads` threads), else with numpy (fp32, its own threads).
    Each takes about `seconds`; `n` of a result is how many runs its best was taken from.
    """
    threads = threads or default_threads()
    try:
        import torch
    except ImportError:
        return _with_numpy(seconds, size, copy_mib)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = []
        for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            a, b = torch.ones(size, size, dtype=kind), torch.ones(size, size, dtype=kind)
            out = torch.empty_like(a)
            found.append(
                _matmul(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), seconds, size, name, "torch", threads)
            )
        source = torch.ones(copy_mib << 18, dtype=torch.float32)
        target = torch.zeros_like(source)
        found.append(_copy(lambda: target.copy_(source), seconds, copy_mib, "torch", threads))
        return found
    finally:
        torch.set_num_threads(before)


def _with_numpy(seconds: float, size: int, copy_mib: int) -> list[Result]:
    a, out = np.ones((size, size), np.float32), np.empty((size, size), np.float32)
    source, target = np.ones(copy_mib << 18, np.float32), np.zeros(copy_mib << 18, np.float32)
    return [
        _matmul(lambda: np.matmul(a, a, out=out), seconds, size, "fp32", "numpy", None),
        _copy(lambda: np.copyto(target, source), seconds, copy_mib, "numpy", 1),
    ]


def _matmul(run: Callable[[], object], seconds: float, size: int, kind: str, by: str, threads: int | None) -> Result:
    best, n = _best(run, seconds)
    tags = {"what": f"{size} x {size} matrix product", "precision": kind, "by": by, "threads": threads}
    return Result(name=f"peak_matmul_{kind}", value=2 * size**3 / best / 1e9, unit="GFLOP/s", n=n, tags=tags)


def _copy(run: Callable[[], object], seconds: float, mib: int, by: str, threads: int | None) -> Result:
    best, n = _best(run, seconds)
    tags = {"what": f"copy of {mib} MiB, bytes read plus bytes written", "by": by, "threads": threads}
    return Result(name="peak_copy", value=2 * mib * 2**20 / best / 1e9, unit="GB/s", n=n, tags=tags)


def _best(run: Callable[[], object], seconds: float) -> tuple[float, int]:
    """(shortest time of a run in seconds, runs), the first run not counted."""
    run()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times), len(times)

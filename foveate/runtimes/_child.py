"""The other end of `worker.Worker`: `python -m foveate.runtimes._child RUNTIME MODULE THREADS DEVICE`, fed over pipes.

It imports what its runtime needs and nothing else. A thread reads the requests, and so notices at once, even in the
middle of a run, when the parent is gone.
"""

import contextlib
import gc
import os
import queue
import resource
import signal
import sys
import threading
import time
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from foveate.errors import InputError, one_of
from foveate.runtimes._base import RUNTIMES, Runner, first_line
from foveate.runtimes._pipe import receive, send

SETTLE_S, IDLE_S = 0.05, 0.05


class Child:
    def __init__(self, runtime: str, threads: int, device: str) -> None:
        self.name, self.runtime, self.threads, self.device = runtime, RUNTIMES[runtime], threads, device
        self.models: dict[str, Runner] = {}
        self.quiet: dict[str, float] | None = None
        self.serving = False

    def load(self, *, key: str, path: str, precision: str, shape: list[int] | None) -> None:
        if not self.serving:
            self.runtime.serve(self.threads)
            self.serving = True
        fixed = None if shape is None else tuple(shape)
        self.models.pop(key, None)
        self.models[key] = self.runtime.load(
            Path(path), precision=precision, threads=self.threads, device=self.device, shape=fixed
        )

    def drop(self, *, key: str) -> None:
        self.model(key)
        del self.models[key]
        gc.collect()

    def run(self, x: np.ndarray, *, key: str) -> np.ndarray:
        return self.model(key)(x)

    def time(
        self, *x: np.ndarray, keys: list[str], rounds: int, warmup: int, seed: int, resident: list[bool], look: bool
    ) -> np.ndarray:
        models = [self.model(k) for k in keys]
        calls = [
            model.resident(one) if there else partial(model, one)
            for model, one, there in zip(models, x, resident, strict=True)
        ]
        idle = idle_cores() if look or self.quiet is None else self.quiet["idle_cores"]
        for _ in range(warmup):
            for call in calls:
                call()
        times = np.empty((len(keys), rounds))
        order = np.random.default_rng(seed)
        others = OtherLoad()
        gc.disable()  # one that fell into a round would be taken for the model's
        try:
            for r in range(rounds):
                for i in order.permutation(len(keys)):
                    start = time.perf_counter_ns()
                    calls[i]()
                    times[i, r] = time.perf_counter_ns() - start
        finally:
            gc.enable()
        self.quiet = {"idle_cores": idle, "other_cores": others.cores(), "seconds": others.seconds()}
        return times / 1e6

    def facts(self) -> dict[str, Any]:
        return {
            "runtime": self.name,
            "threads": self.threads,
            "device": self.device,
            "versions": {p: metadata.version(p) for p in self.runtime.packages},
            "pid": os.getpid(),
            "peak_rss_bytes": peak_rss_bytes(),
            "quiet": self.quiet,
            **self.runtime.device_facts(self.device),
        }

    def convert(self, *calibration: np.ndarray, graph: str, target: str, precision: str) -> None:
        images = np.stack(calibration) if calibration else None
        self.runtime.convert(Path(graph), Path(target), precision, images, self.device)  # type: ignore[attr-defined]

    def model(self, key: str) -> Runner:
        if key not in self.models:
            raise one_of("model", key, self.models)
        return self.models[key]


class OtherLoad:
    """CPU that other processes use, from the making of this object on; nan where psutil is missing."""

    def __init__(self) -> None:
        self.start = self._read()

    def cores(self) -> float:
        (busy, own, wall), (busy0, own0, wall0) = self._read(), self.start
        return max(0.0, (busy - busy0) - (own - own0)) / max(wall - wall0, 1e-9)

    def seconds(self) -> float:
        return self._read()[2] - self.start[2]

    def _read(self) -> tuple[float, float, float]:
        try:
            import psutil
        except ImportError:
            return float("nan"), 0.0, time.perf_counter()
        t = psutil.cpu_times()
        return t.user + t.nice + t.system, time.process_time(), time.perf_counter()  # type: ignore[attr-defined]


def peak_rss_bytes() -> int:
    """Linux counts it anew for this program; elsewhere (`ru_maxrss`) the parent's may be counted in."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def idle_cores() -> float:
    """CPU seconds this process uses per second of doing nothing: near 0, unless a pool of threads spins."""
    time.sleep(SETTLE_S)  # pools may spin on for some milliseconds after a run
    cpu, wall = time.process_time(), time.perf_counter()
    time.sleep(IDLE_S)
    return (time.process_time() - cpu) / (time.perf_counter() - wall)


def answer(child: Child, header: dict[str, Any], arrays: list[np.ndarray]) -> tuple[dict[str, Any], list[np.ndarray]]:
    try:
        result = getattr(child, header.pop("op"))(*arrays, **header)
    except InputError as e:
        return {"error": type(e).__name__, "message": str(e)}, []
    except Exception as e:
        return {"error": "RuntimeError", "message": f"{child.name}: {type(e).__name__}: {first_line(e)}"}, []
    if isinstance(result, np.ndarray):
        return {}, [result]
    return {} if result is None else {"facts": result}, []


def main(runtime: str, module: str, threads: str, device: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries print must not end up among the answers.
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests: queue.SimpleQueue[tuple[dict[str, Any], list[np.ndarray]]] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                requests.put(receive(cast(BinaryIO, sys.stdin.buffer)))
        except EOFError:
            os._exit(0)  # the parent is done, or gone; a run in progress has no one to report to

    threading.Thread(target=listen, daemon=True).start()
    import_module(module)
    child = Child(runtime, int(threads), device)
    with contextlib.suppress(ImportError, OSError, RuntimeError):  # `load` will say it in words
        child.runtime.warm()
    while True:
        send(cast(BinaryIO, pipe), *answer(child, *requests.get()))


if __name__ == "__main__":
    main(*sys.argv[1:])

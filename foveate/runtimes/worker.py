"""A runtime in a process of its own.

Runtimes keep pools of threads that spin for a while after a run, and slow down whatever runs next in the same process.
So each gets its own process, and models that are to be compared are timed within one, by turns.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from foveate import errors
from foveate.errors import InputError, NotAvailable
from foveate.runtimes._base import DEVICE, RUNTIMES, batches
from foveate.runtimes._pipe import receive, send


class Worker:
    """Models of one runtime, in a process that ends with this object, or with the process that made it.

        with Worker("openvino", threads=2) as worker:
            worker.load("dense", path, precision="fp32")
            logits = worker.run("dense", images, batch=1)

    Not safe to share between threads. Errors in the process are raised here again: `InputError` as itself, others as
    `RuntimeError`.
    """

    def __init__(self, runtime: str, threads: int, device: str = DEVICE) -> None:
        cls = RUNTIMES[runtime]
        if (reason := cls.why_not(device=device)) is not None:
            raise NotAvailable(f"cannot run {runtime}: {reason}")
        if threads < 1:
            raise InputError(f"threads must be at least 1; got {threads}")
        if cls.__module__ == "__main__":
            raise InputError(
                f"runtime {runtime!r} is defined in __main__; define it in a module, so that a process can"
            )
        self.runtime, self.threads, self.device = runtime, threads, device
        self._module = cls.__module__
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._stderr = tempfile.TemporaryFile()
        # The same modules as here, and no others: -P keeps the current folder's files from standing in for them.
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        what = [self.runtime, self._module, str(self.threads), self.device]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "foveate.runtimes._child", *what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=env,
            process_group=0,  # a Ctrl-C is for this process, which then ends that one
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            assert process.stdin is not None and process.stdout is not None
            if kind is not None:
                process.kill()
            with contextlib.suppress(OSError):  # what is left in its buffer may have no reader any more
                process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        finally:
            self._stderr.close()

    def load(self, key: str, path: Path, *, precision: str, shape: tuple[int, ...] | None = None) -> None:
        """As `Runtime.load`; the model is called `key` from here on (one of that name before it is dropped)."""
        self._ask("load", key=key, path=str(Path(path).absolute()), precision=precision, shape=shape)

    def drop(self, key: str) -> None:
        self._ask("drop", key=key)

    def run(self, key: str, x: np.ndarray, batch: int) -> np.ndarray:
        """All rows of x [S ...] through the model, `batch` at a time: [S ...]; the last one is filled up, then cut."""
        if len(x) == 0:
            raise InputError("there is nothing to run: the input has no rows")
        parts = [self._ask("run", [part], key=key)[1][0] for part in batches(x, batch)]
        return np.concatenate(parts)[: len(x)]

    def time(
        self,
        keys: Sequence[str],
        x: Sequence[np.ndarray],
        *,
        rounds: int,
        warmup: int = 3,
        seed: int = 0,
        resident: bool | Sequence[bool] = False,
        look: bool | None = None,
    ) -> np.ndarray:
        """Latencies in ms, [len(keys) rounds]: in every round each model runs once, in an order drawn anew.

        `x` holds one whole input (batch included) for each key. `facts()["quiet"]` says then how quiet it was.
        A run takes its input from the host, and is over when its answer is there. `resident` (of all, or of each key):
        input and output lie on the device, and it is over when the device is done; the same where that is the host.
        `look`: sleep a tenth of a second before, to see whether a pool spins; by default where there is a warm-up, as
        without one this goes on where the last call ended.
        """
        if len(keys) != len(x):
            raise InputError(f"{len(keys)} models and {len(x)} inputs; give one for each")
        there = [resident] * len(keys) if isinstance(resident, bool) else list(resident)
        asked = {"keys": list(keys), "rounds": rounds, "warmup": warmup, "seed": seed, "resident": there}
        return self._ask("time", x, **asked, look=bool(warmup) if look is None else look)[1][0]

    def facts(self) -> dict[str, Any]:
        """runtime, threads, device, versions, pid, peak_rss_bytes; quiet: what the last `time` noticed of other load.

        quiet holds `idle_cores`: CPU this process burnt per second while it ought to have slept, just before the last
        warm-up (a pool that spins); `other_cores`: CPU that other processes used per second meanwhile (nan: unknown);
        and `seconds`: how long that was. It is None before the first `time`.
        Of a GPU also `name`, `capability`, `cuda`, `driver`, and `allocated_bytes` and `peak_allocated_bytes` on it.
        """
        return self._ask("facts")[0]["facts"]

    def _ask(self, op: str, arrays: Sequence[np.ndarray] = (), **args: Any) -> tuple[dict[str, Any], list[np.ndarray]]:
        if self._process is None:
            raise RuntimeError("this worker is not running: use it as `with Worker(...) as worker`")
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            send(self._process.stdin, {"op": op} | args, arrays)  # type: ignore[arg-type]
            header, results = receive(self._process.stdout)  # type: ignore[arg-type]
        except (EOFError, BrokenPipeError):
            code = self._process.wait()
            raise RuntimeError(f"the {self.runtime} process ended with code {code}: {self._last_words()}") from None
        except BaseException:  # a Ctrl-C, say: its answer would be taken for that of the next question
            self._process.kill()
            raise
        if "error" in header:
            cls = getattr(errors, header["error"], RuntimeError)
            raise cls(header["message"])
        return header, results

    def _last_words(self, lines: int = 5) -> str:
        self._stderr.seek(0)
        text = self._stderr.read().decode(errors="replace").strip().splitlines()
        return " | ".join(text[-lines:]) or "it said nothing"


def convert(
    runtime: str,
    graph: Path,
    target: Path,
    precision: str,
    calibration: np.ndarray | None = None,
    batch: int = 1,
    device: str = DEVICE,
) -> None:
    """Have a process of its own make `target` from `graph`: converters take the weights' size several times over."""
    with Worker(runtime, threads=os.cpu_count() or 1, device=device) as worker, _converting(worker):
        arrays = [] if precision != "int8" or calibration is None else list(batches(calibration, batch))
        worker._ask("convert", arrays, graph=str(graph.absolute()), target=str(target.absolute()), precision=precision)


_CONVERTERS: set[Worker] = set()


@contextlib.contextmanager
def _converting(worker: Worker) -> Iterator[None]:
    _CONVERTERS.add(worker)
    try:
        yield
    finally:
        _CONVERTERS.discard(worker)


def stop_converting() -> None:
    """End all converters, whichever threads wait for them; `convert` raises a RuntimeError there."""
    for worker in list(_CONVERTERS):
        if worker._process is not None:
            worker._process.kill()

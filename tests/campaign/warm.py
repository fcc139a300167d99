"""Foveate's command line in processes of its own, without the seconds that importing takes: a warm parent forks them.

What a child does from there on is what a command does: its own session, streams, folder and exit.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

PARENT = """
import gc, json, os, signal, sys
# Nothing that starts threads (a runtime): a fork would lose them, and wait for them at its end.
import foveate, foveate.cli, foveate.fitting.job, foveate.train, foveate.artefact, foveate.commands.export
import foveate.report, timm, torch, torch.export, torch.onnx, onnx, onnxscript, accelerate
assert len(os.listdir("/proc/self/task")) == 1
torch.set_num_threads(1)
gc.collect()
gc.freeze()  # or every child would copy all of it at its end
print("warm", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "poll" in asked:
        pid, status = os.waitpid(asked["poll"], os.WNOHANG)
        print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
        continue
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    os.setsid()
    for fd, name in ((0, os.devnull), (1, asked["log"] + ".out"), (2, asked["log"])):
        os.dup2(os.open(name, os.O_RDONLY if fd == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), fd)
    os.environ.update(asked["env"])
    os.chdir(asked["cwd"])
    import tempfile
    tempfile.tempdir = None
    sys.argv = ["foveate", *asked["args"]]
    foveate.cli.main()
    break
"""


class Warm:
    """The parent. One trial at a time."""

    def __enter__(self) -> Self:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "300"}
        self._parent = subprocess.Popen(
            [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._parent.stdout is not None and self._parent.stdout.readline() == "warm\n"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait(30)
        self._parent.stdout.close()

    def ask(self, **what: Any) -> Any:
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(what) + "\n")
        self._parent.stdin.flush()
        return json.loads(self._parent.stdout.readline())

    def start(self, args: Sequence[object], place: "Place", cwd: Path | None = None) -> "Child":
        place.count += 1
        log = place.root / f"log{place.count}"
        log.touch()
        began = time.monotonic()
        at = str(cwd or place.root)
        pid = self.ask(args=[str(a) for a in args], log=str(log), env=place.environment, cwd=at)
        return Child(self, pid, log, began)

    def run(self, args: Sequence[object], place: "Place", cwd: Path | None = None, seconds: float = 120) -> "Child":
        child = self.start(args, place, cwd)
        child.wait(seconds)
        return child


@dataclass
class Child:
    parent: Warm
    pid: int
    log: Path
    began: float
    code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self.parent.ask(poll=self.pid)
        return self.code

    def wait(self, seconds: float) -> int:
        until = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                os.killpg(self.pid, signal.SIGKILL)
                raise TimeoutError(f"still there after {seconds:g} s: {self.said}")
            time.sleep(0.01)
        return code

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def reached(self, stage: str, seconds: float = 120) -> bool:
        """Wait until it names the stage; False where it ended before."""
        until = time.monotonic() + seconds
        while f"{stage}: " not in self.said:
            if self.poll() is not None or time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def orphans(self, seconds: float = 8) -> list[str]:
        """What of its session is still there after so long."""
        until = time.monotonic() + seconds
        while left := [p for p in psutil.process_iter(["pid"]) if _session(p.pid) == self.pid]:
            if time.monotonic() > until:
                return [" ".join(p.cmdline())[:120] for p in left]
            time.sleep(0.05)
        return []


def _session(pid: int) -> int | None:
    try:
        found = os.getsid(pid)
        return None if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else found
    except (ProcessLookupError, psutil.Error):
        return None


@dataclass
class Place:
    """Where trials happen: a folder with temporary files and a cache of its own."""

    root: Path
    count: int = 0

    def __post_init__(self) -> None:
        for name in ("tmp", "cache"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        return {"TMPDIR": str(self.root / "tmp"), "FOVEATE_CACHE": str(self.root / "cache")}

    def fresh(self, folder: Path) -> Path:
        """A copy of an artefact at `out`, as the state before a trial."""
        out = self.root / "out"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder, out)
        return out

    def leftovers(self) -> list[str]:
        """What stands anywhere here under a name of work under way, or in the folder for temporary files."""
        staged = self.root.rglob(".foveate-*")
        return sorted({str(p.relative_to(self.root)) for p in (*staged, *(self.root / "tmp").iterdir())})

"""Ctrl-C and SIGTERM where Python would drop them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SWALLOWED = """
import os, signal, sys, time
from foveate.console import guarded

class Dying:
    def __del__(self):
        {inside}

def app():
    thing = Dying()
    del thing
    time.sleep(20)
    print("went on")

guarded(app)
"""


@pytest.mark.parametrize(
    "inside", ["os.kill(os.getpid(), signal.{name})", "os.kill(os.getpid(), signal.{name}); time.sleep(0.1)"]
)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_that_python_would_swallow_still_stops(inside: str, name: str):
    """An exception raised in a finaliser is printed and dropped: the run went on, and heard no later signal either."""
    code = SWALLOWED.format(inside=inside.format(name=name))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 128 + getattr(signal, name), ran.stderr
    assert ran.stderr.strip() == "stopped; nothing half-written" and "went on" not in ran.stdout


def test_what_a_signal_broke_off_may_fail_in_its_own_words():
    """torch's writer, broken off, says that a file ends elsewhere; that is no error of the user's."""
    code = """
import os, signal
from foveate.console import guarded

def app():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        while True: pass
    finally:
        raise RuntimeError("unexpected pos 7 vs 5")

guarded(app)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr.strip()) == (130, "stopped; nothing half-written")


@pytest.mark.parametrize("at", [2, 3, 5, 8])
def test_a_signal_in_a_write_for_torch_does_not_end_the_process(tmp_path: Path, at: int):
    """Its writer closes the archive when it is dropped, and terminates where a write before was broken off."""
    code = f"""
import os, signal, torch
from pathlib import Path
from foveate import files
from foveate.console import guarded

was, sent = files._Unfailing._do, []

def do(self, work):
    was(self, work)
    sent.append(1)
    if len(sent) == {at}:
        os.kill(os.getpid(), signal.SIGTERM)

files._Unfailing._do = do

def app():
    do.__code__ = do.__code__.replace(co_filename=files.__file__, co_name="_do")
    while True:
        with files.unfailing(Path({str(tmp_path / "x.pt2")!r})) as file:
            torch.export.save(torch.export.export(torch.nn.Linear(300, 300), (torch.zeros(1, 300),)), file)

guarded(app)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr.strip()) == (143, "stopped; nothing half-written"), ran.stderr


BLOCKS = """
import contextlib, os, signal, time
from foveate.console import guarded

held = []

@contextlib.contextmanager
def made():
    held.append(1)
    {before}
    try:
        yield
    finally:
        {after}
        held.pop()

class Mode:
    def __enter__(self):
        held.append(1)
        {before}

    def __exit__(self, *_):
        {after}
        held.pop()

def app():
    try:
        with {block}():
            pass
        time.sleep(5)
    finally:
        print(held)

guarded(app)
"""


@pytest.mark.parametrize("block", ["made", "Mode"])
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_signal_between_the_ends_of_a_block_leaves_nothing_behind(block: str, where: str):
    """Raised there it would skip what puts things back: a file stays, a lock is held, torch's C++ terminates."""
    hit = "os.kill(os.getpid(), signal.SIGTERM)"
    code = BLOCKS.format(block=block, **{"before": "pass", "after": "pass", where: hit})
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr.strip()) == (143, "[]\n", "stopped; nothing half-written")


def test_a_block_that_is_never_entered_is_broken_off():
    code = """
import os, signal, time
from foveate.console import guarded

class Stuck:
    def __enter__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        while True: pass

    def __exit__(self, *_): pass

def app():
    with Stuck(): pass

guarded(app)
"""
    began = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr.strip()) == (143, "stopped; nothing half-written")
    assert time.monotonic() - began > 2  # it was waited for

"""Ctrl-C and SIGTERM where Python would drop them."""

import signal
import subprocess
import sys

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

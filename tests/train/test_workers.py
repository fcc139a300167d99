"""Processes that decode: what they say when the one that asked ends in the midst of taking a batch."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "error, told", [("EOFError()", False), ("ConnectionResetError(104, 'reset')", False), ("ValueError('x')", True)]
)
def test_a_worker_is_silent_when_its_process_hangs_up(error: str, told: bool):
    """multiprocessing's thread that hands tensors over gives whatever stops it to sys.excepthook, as here."""
    code = (
        "import sys; from foveate.train.data import begin_worker; begin_worker(0)\n"
        f"try: raise {error}\n"
        "except Exception: sys.excepthook(*sys.exc_info())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stderr
    assert bool(said) is told, said

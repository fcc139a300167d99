"""A disk that is full, whoever says so and however: one line, nothing half-written, and no process ended over it.

The limit on the size of a file stands in for the disk: the system refuses the write in the same way, to everybody.
"""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foveate.errors import InputError
from foveate.files import full, replacing, unfailing

LIMITED = """
import resource, sys
from pathlib import Path
import foveate.files as files
from foveate.errors import InputError
{first}
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with files.replacing(Path(sys.argv[1]) / "it.pt2") as part:
        {write}
except InputError as e:
    print(e)
"""
TORCH = """
import torch
x = torch.zeros(100_000)
m = torch.export.export(torch.nn.Linear(200, 200), (torch.zeros(1, 200),))
"""
ONNX = """
import numpy as np, onnx
held = onnx.numpy_helper.from_array(np.zeros(50_000), "held")
m = onnx.helper.make_model(onnx.helper.make_graph([], "it", [], [], [held]))
"""
WRITERS = {
    "Python": ("", "part.write_bytes(bytes(50_000))"),
    "safetensors": (f"{TORCH}from safetensors.torch import save_file", "save_file({'x': x}, part)"),
    "torch": (TORCH, "\n        with files.unfailing(part) as file: torch.save(x, file)"),
    "torch.export": (TORCH, "\n        with files.unfailing(part) as file: torch.export.save(m, file)"),
    "onnx": (ONNX, "onnx.save(m, part)"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_whoever_writes_a_full_disk_is_one_line(tmp_path, writer):
    first, write = WRITERS[writer]
    code = LIMITED.format(first=first, write=write)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"cannot write {tmp_path}/it.pt2: File too large"]
    assert not list(tmp_path.iterdir())


def test_it_is_found_behind_other_errors(tmp_path):
    def deep():
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as e:
            raise RuntimeError("the writer failed") from e

    with pytest.raises(RuntimeError) as told:
        deep()
    assert full(tmp_path, told.value) == "No space left on device"
    assert full(tmp_path, RuntimeError("I/O error: No space left on device (os error 28)")) is not None
    assert full(tmp_path / "not" / "there", RuntimeError("another")) is None


def test_another_error_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="fire"), replacing(tmp_path / "a") as part:
        part.write_text("half")
        raise RuntimeError("the disk caught fire")
    assert not list(tmp_path.iterdir())


def test_a_file_that_does_not_fail_holds_what_was_written(tmp_path):
    with unfailing(tmp_path / "a") as file:
        file.write(b"hello")
        file.seek(0)
        file.write(b"J")
        assert file.seek(0, os.SEEK_END) == 5
        file.write(b"!")
    assert (tmp_path / "a").read_bytes() == b"Jello!"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_the_first_failure_is_raised_at_the_end():
    written = []
    with pytest.raises(OSError, match="No space left"), unfailing(Path("/dev/full")) as file:
        for _ in range(3):
            written.append(file.write(bytes(10**6)))
    assert written == [10**6] * 3


def test_bad_arguments_stay_bad_arguments(tmp_path):
    with pytest.raises(InputError, match="mine"), replacing(tmp_path / "a"):
        raise InputError("mine")

"""The worker: a process that serves and measures, notices its neighbours, and ends with its parent."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from support.builds import IMAGE

from foveate.errors import InputError
from foveate.runtimes import RUNTIMES, Worker


def test_keys(built, images):
    with Worker("onnxruntime", threads=1) as worker:
        worker.load("a", built("onnxruntime", "fp32"), precision="fp32")
        worker.drop("a")
        with pytest.raises(InputError, match="unknown model 'a'"):
            worker.run("a", images, batch=1)
        with pytest.raises(InputError, match="2 models and 1 inputs"):
            worker.time(["a", "b"], [images], rounds=1)
        with pytest.raises(InputError, match="no rows"):
            worker.run("a", images[:0], batch=1)
    with pytest.raises(RuntimeError, match="with Worker"):
        worker.facts()


def test_a_spinning_neighbour_is_noticed(plugin, built, tmp_path):
    (tmp_path / "m").touch()
    x = np.zeros(1, np.float32)
    with Worker("spinning", threads=1) as worker, Worker("onnxruntime", threads=1) as calm:
        calm.load("m", built("onnxruntime", "fp32"), precision="fp32")
        calm.time(["m"], [np.zeros((1, *IMAGE), np.float32)], rounds=1)
        assert calm.facts()["quiet"]["idle_cores"] < 0.1
        worker.load("m", tmp_path / "m", precision="fp32")
        worker.time(["m"], [x], rounds=1)
        assert worker.facts()["quiet"]["idle_cores"] > 0.1
        # And from the process next door it is other load.
        calm.time(["m"], [np.zeros((1, *IMAGE), np.float32)], rounds=300)
        assert calm.facts()["quiet"]["other_cores"] > 0.1


def test_a_process_that_dies_leaves_its_last_words(plugin, tmp_path):
    (tmp_path / "m").touch()
    with Worker("dying", threads=1) as worker:
        worker.load("m", tmp_path / "m", precision="fp32")
        with pytest.raises(RuntimeError, match=r"code 7.*last words"):
            worker.run("m", np.zeros(1, np.float32), batch=1)


SCRIPT = """
import signal, sys, time, numpy as np
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started deaf to it
from foveate.runtimes import Worker
with Worker("onnxruntime", threads=1) as worker:
    worker.load("m", sys.argv[1], precision="fp32")
    print(worker.facts()["pid"], flush=True)
    worker.time(["m"], [np.zeros((1, 3, 64, 64), np.float32)], rounds=10**7)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_process_ends_with_its_parent_even_while_it_runs(end, built, tmp_path):
    script = tmp_path / "script.py"  # and there is no `if __name__ == "__main__"` in it
    script.write_text(SCRIPT)
    parent = subprocess.Popen(
        [sys.executable, script, built("onnxruntime", "fp32")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.3)
    parent.send_signal(end)
    _, err = parent.communicate(timeout=20)
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert err.count("Traceback") == (1 if end == signal.SIGINT else 0)  # the parent's own KeyboardInterrupt


def test_what_lies_in_the_current_folder_does_not_stand_in_for_modules(built, images, tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise RuntimeError('this is not it')")
    monkeypatch.chdir(tmp_path)
    with Worker("onnxruntime", threads=1) as worker:
        worker.load("m", os.path.relpath(built("onnxruntime", "fp32")), precision="fp32")


def test_nothing_is_left_of_a_library_among_the_temporary_files(tmp_path, model, monkeypatch):
    """ONNX Runtime left an identifier there, by which it reported home."""
    file = RUNTIMES["onnxruntime"].build(model, tmp_path / "a", shape=(1, *IMAGE), precision="fp32")
    temp = tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setenv("TMPDIR", str(temp))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    with Worker("onnxruntime", threads=1) as worker:
        worker.load("a", file, precision="fp32")
        assert not list(temp.iterdir())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_nothing_outlives_a_worker(runtime, tmp_path, model):
    """OpenVINO used to fork a process that reported its import, and hung for ever."""
    if reason := RUNTIMES[runtime].why_not("fp32"):
        pytest.skip(reason)
    file = RUNTIMES[runtime].build(model, tmp_path / "a", shape=(1, *IMAGE), precision="fp32")
    with Worker(runtime, threads=1) as worker:
        worker.load("a", file, precision="fp32")
        group = worker.facts()["pid"]  # a worker leads a process group of its own
    left = [p.pid for p in psutil.process_iter() if p.pid != group and os.getpgid(p.pid) == group]
    assert not left

"""Where a folder of results may be written, and what is there whenever the writing ends."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foveate import files
from foveate.errors import InputError
from foveate.files import REFILLING, check_folder, locked, movable, replacing_folder
from foveate.staging import staged_name


def write(path, text="new", **more):
    with replacing_folder(path) as part:
        for name, content in {"plan.json": text, "model.onnx": text, **more}.items():
            (part / name).write_text(content)


def contents(path):
    return {p.name: p.read_text() for p in path.iterdir()}


def failing(number):
    def fails(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fails


def left(path):
    """What lies beside a folder, or hidden in it."""
    return sorted(p.name for p in [*path.parent.iterdir(), *path.iterdir()] if p.name.startswith("."))


@pytest.mark.parametrize(
    "kind", ["none", "empty", "ours", "link", "link to none yet", "current", "mounted", "bare", "fixed"]
)
def test_every_kind_of_folder_holds_what_was_written_and_nothing_else(tmp_path, monkeypatch, kind):
    out = real = tmp_path / "out"
    if kind in ("empty", "current", "mounted"):
        out.mkdir()
    if kind in ("ours", "current", "mounted", "bare"):
        write(out, "old", **{"points.txt": "old"})
    if kind == "link":
        real = tmp_path / "elsewhere"
        write(real, "old")
        out.symlink_to(real)
    if kind == "link to none yet":
        real = tmp_path / "elsewhere" / "deeper"
        real.parent.mkdir()
        (tmp_path / "elsewhere2").symlink_to(real.parent)
        out = tmp_path / "elsewhere2" / "deeper"
    if kind == "current":
        monkeypatch.chdir(out)
        out = Path()
    if kind == "mounted":
        monkeypatch.setattr(files, "movable", lambda folder: False)
    if kind == "fixed":  # looks as if it could be moved
        write(out, "old")
        monkeypatch.setattr(files, "_exchange", failing(errno.EXDEV))
    if kind == "bare":  # a file system that cannot exchange
        monkeypatch.setattr(files.ctypes, "CDLL", lambda *a, **k: object())
    number = real.stat().st_ino if real.exists() else None
    check_folder(out)
    write(out)
    assert contents(real) == {"plan.json": "new", "model.onnx": "new"} and left(real) == []
    assert out.is_symlink() == (kind == "link")
    if kind in ("current", "mounted"):
        assert real.stat().st_ino == number  # the very folder: a shell or a volume stays in it


@pytest.mark.parametrize("kind", ["exchanged", "bare", "mounted"])
def test_a_failure_at_the_end_leaves_the_old_one(tmp_path, monkeypatch, kind):
    out = tmp_path / "out"
    write(out, "old")

    fails = failing(errno.ENOSPC)
    if kind == "exchanged":
        monkeypatch.setattr(files, "_exchange", fails)
    elif kind == "mounted":
        monkeypatch.setattr(files, "movable", lambda folder: False)
        monkeypatch.setattr(files, "_refill", fails)
    else:
        monkeypatch.setattr(files.ctypes, "CDLL", lambda *a, **k: object())
        once = iter([True, False])  # the old one is moved aside, the new one cannot be moved in
        replace = Path.replace
        monkeypatch.setattr(Path, "replace", lambda self, to: replace(self, to) if next(once, True) else fails())
    with pytest.raises(InputError, match="No space left"):
        write(out)
    monkeypatch.undo()
    assert contents(out) == {"plan.json": "old", "model.onnx": "old"} and left(out) == []


def test_what_cannot_be_written_is_told_before_anything_starts(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name, told in (("file", "is a file"), ("theirs", "did not write"), ("nowhere", "is a link to .*gone")):
        with pytest.raises(InputError, match=told):
            check_folder(tmp_path / name)
    if os.getuid():  # root may write anywhere
        (tmp_path / "shut").mkdir(mode=0o500)
        with pytest.raises(InputError, match="cannot write"):
            check_folder(tmp_path / "shut" / "out")
    assert left(tmp_path / "theirs") == []


def test_a_mount_point_is_none_to_be_moved(tmp_path, monkeypatch):
    plain, odd = tmp_path / "plain", tmp_path / "with a space"
    for folder in (plain, odd):
        folder.mkdir()
        assert movable(folder)
    line = "36 35 98:0 / " + str(odd).replace(" ", r"\040") + " rw - ext4 /dev/root rw"
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, **k: line if "mountinfo" in str(self) else read(self, **k))
    assert movable(plain) and not movable(odd)
    monkeypatch.chdir(plain)
    assert not movable(plain) and not movable(tmp_path)


KILLED = """
import sys, time
from pathlib import Path
from foveate.files import replacing_folder
out, at = Path(sys.argv[1]), int(sys.argv[2])
for i in range(10_000):
    with replacing_folder(out) as part:
        for name in ("model.onnx", "plan.json"):
            (part / name).write_text(str(i))
    if i == 0:
        print("begun", flush=True)
"""


@pytest.mark.parametrize("after_ms", [0, 3, 7, 20, 55])
def test_a_kill_at_any_moment_leaves_one_of_them_whole(tmp_path, after_ms):
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", KILLED, out, "0"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(after_ms / 1e3)
        process.send_signal(signal.SIGKILL)
    found = contents(out)
    assert found.keys() == {"model.onnx", "plan.json"} and len(set(found.values())) == 1
    write(out)  # and is written again
    assert contents(out)["plan.json"] == "new"
    shutil.rmtree(out)


ENDLESS = """
import tempfile, time
from foveate.console import guarded
from foveate.files import replacing_folder
def app():
    with replacing_folder("out") as part, tempfile.TemporaryDirectory() as tmp:
        (part / "x").write_text("x")
        print("begun", flush=True)
        while True:  # a signal that comes just before one long sleep would be heard after it
            time.sleep(0.05)
guarded(app)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_both_signals_end_in_a_line_and_leave_nothing(tmp_path, number, code):
    (tmp_path / "tmp").mkdir()
    env = os.environ | {"TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=env,
    ) as process:
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (code, "stopped; nothing half-written\n")
    assert [p.name for p in tmp_path.iterdir()] == ["tmp"] and not list((tmp_path / "tmp").iterdir())


HOLDS = """
import sys, time
from pathlib import Path
from foveate.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_do_not_write_into_one_folder(tmp_path):
    out = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDS, out], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline()
        with (
            pytest.raises(InputError, match=rf"process {first.pid} is writing into .*run; allowed: another --out"),
            locked(out),
        ):
            pass
        first.kill()
        first.wait()
        with locked(out):  # a lock ends with its process
            pass


def test_a_folder_of_somebodys_own_is_not_ours_for_what_a_killed_run_left_in_it(tmp_path):
    """A run with --out mine/out that was killed leaves its work beside that, in mine."""
    mine = tmp_path / "mine"
    mine.mkdir()
    left = mine / staged_name()
    left.mkdir()
    check_folder(mine)  # nothing else in it: it may be used
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="did not write"):
        check_folder(mine)
    (mine / REFILLING).touch()  # one that was being replaced, file by file, when its process was killed
    check_folder(mine)


def test_a_killed_replacing_of_files_can_be_done_again(tmp_path, monkeypatch):
    """Of a folder that cannot be moved: the process dies after the first of the new files."""
    out = tmp_path / "volume"
    out.mkdir()
    monkeypatch.setattr(files, "movable", lambda _: False)
    for text in ("one", "two"):
        with replacing_folder(out) as part:
            (part / "plan.json").write_text(text)
            (part / "model").write_text(text)
    before = Path.replace

    def die(self, target):
        if Path(target).name == "plan.json":
            raise KeyboardInterrupt
        return before(self, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt), replacing_folder(out) as part:
        (part / "plan.json").write_text("three")
        (part / "model").write_text("three")
    monkeypatch.setattr(Path, "replace", before)
    assert not (out / "plan.json").exists()  # so nobody takes it for a whole one
    with replacing_folder(out) as part:
        (part / "plan.json").write_text("four")
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("plan.json", "four")]

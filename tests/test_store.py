"""The store of measured profiles: whole after a kill, shared by two processes, done without where it cannot be."""

import logging
import os
import signal
import subprocess
import sys

import pytest

from foveate.files import cache_folder
from foveate.profiling.store import Store

ROW = ("blocks", 128, 128, 0.5, 20.0, 5, 0)


def test_points_come_back(tmp_path):
    with Store(tmp_path / "a" / "p.sqlite") as store:
        store.add("k", [ROW, ("ends", 197, 197, 0.1, 21.0, 5, 1)])
        store.add("other", [ROW])
        store.add("k", [(*ROW[:3], 0.6, 20.0, 10, 0)])
        store.finish("k", "text")
    with Store(tmp_path / "a" / "p.sqlite") as store:
        assert store.points("k") == [(*ROW[:3], 0.6, 20.0, 10, 0), ("ends", 197, 197, 0.1, 21.0, 5, 1)]
        assert store.finished("k") == "text" and store.finished("other") is None
        store.clear("k")
        assert store.points("k") == [] and store.finished("k") is None and store.points("other") == [ROW]


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("FOVEATE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "foveate"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somewhere")
    assert str(cache_folder()) == "/somewhere/.cache/foveate"


WRITER = """
import sys
from pathlib import Path
from foveate.profiling.store import Store
with Store(Path(sys.argv[1])) as store:
    for n in range(int(sys.argv[3])):
        store.add("k", [(sys.argv[2], n, n, 0.5, 20.0, 5, 0)])
        print(n, flush=True)
"""


def writer(path, part, count):
    command = [sys.executable, "-c", WRITER, str(path), part, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_process_loses_nothing_it_had_stored(tmp_path):
    path = tmp_path / "p.sqlite"
    child = writer(path, "blocks", 10**9)
    assert child.stdout is not None
    seen = [int(child.stdout.readline()) for _ in range(50)][-1]
    os.kill(child.pid, signal.SIGKILL)
    rest = child.stdout.read().splitlines()
    child.stdout.close()
    child.wait()
    last = int(rest[-1]) if rest else seen
    with Store(path) as store:
        stored = [row[1] for row in store.points("k")]
        assert stored[: last + 1] == list(range(last + 1)) and len(stored) <= last + 2
        store.add("k", [ROW])


def test_two_processes_write_at_once(tmp_path):
    children = [writer(tmp_path / "p.sqlite", part, 100) for part in ("a", "b")]
    assert [(child.communicate(timeout=60), child.returncode)[1] for child in children] == [0, 0]
    with Store(tmp_path / "p.sqlite") as store:
        assert [row[:2] for row in store.points("k")] == [(part, n) for part in "ab" for n in range(100)]


OPENERS = """
import multiprocessing, sys
from pathlib import Path
from foveate.profiling.store import Store

def work(path, barrier, name):
    barrier.wait()
    for n in range(8):
        with Store(path) as store:
            store.add("k", [(name, n, n, 0.5, 20.0, 5, 0)])

fork = multiprocessing.get_context("fork")
for trial in range(60):
    path, barrier = Path(sys.argv[1]) / f"{trial}.sqlite", fork.Barrier(4)
    children = [fork.Process(target=work, args=(path, barrier, name)) for name in "abcd"]
    for child in children:
        child.start()
    for child in children:
        child.join()
    with Store(path) as store:
        print(len(store.points("k")))
"""


def test_opening_and_closing_at_once_loses_nothing(tmp_path):
    """The first connection to a file and the last one hold locks that SQLite does not wait for."""
    done = subprocess.run([sys.executable, "-c", OPENERS, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["32"] * 60 and not done.stderr


@pytest.mark.parametrize("damage", ["text", "header", "middle"])
def test_a_broken_file_is_moved_aside(tmp_path, caplog, damage):
    path = tmp_path / "p.sqlite"
    with Store(path) as store:
        store.add("k", [("blocks", n, n, 0.5, 20.0, 5, 0) for n in range(500)])
    whole = path.read_bytes()
    broken = {
        "text": b"this is not a database, it is a line of text, and long enough to be looked at as one" * 9,
        "header": b"\0" * 100 + whole[100:],
        "middle": whole[:4096] + os.urandom(len(whole) - 4096),
    }[damage]
    path.write_bytes(broken)
    with caplog.at_level(logging.WARNING), Store(path) as store:
        assert store.points("k") == []
        store.add("k", [ROW])
    assert "not a sound database" in caplog.text
    (aside,) = tmp_path.glob("*.broken-*")
    assert aside.read_bytes() == broken
    with Store(path) as store:
        assert store.points("k") == [ROW]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING), Store(tmp_path / "file" / "p.sqlite") as store:
        store.add("k", [ROW])
        assert store.points("k") == [ROW]
    assert "profiles are not kept" in caplog.text


def test_a_read_only_file_is_done_without(tmp_path, caplog):
    Store(tmp_path / "p.sqlite").__exit__()

    class ReadOnly(Store):  # as root sees no permissions, SQLite is told
        def _connect(self):
            db = super()._connect()
            db.execute("PRAGMA query_only = 1")
            return db

    with caplog.at_level(logging.WARNING), ReadOnly(tmp_path / "p.sqlite") as store:
        store.add("k", [ROW])
        assert store.points("k") == [ROW]
    assert "profiles are not kept" in caplog.text

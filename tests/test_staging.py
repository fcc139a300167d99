"""What is under way is held by its process, and swept once that is gone: never another's, never what is not ours."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from foveate import staging
from foveate.files import check_folder, replacing, replacing_folder
from foveate.staging import GRACE_S, abandoned, scratch, spelled, staged_file, staged_folder, staged_name, sweep

HOLDER = """
import sys, time
from pathlib import Path
from foveate.staging import staged_file, staged_folder
with staged_file(Path(sys.argv[1]), ".json") as file, staged_folder(Path(sys.argv[1])) as folder:
    (folder / "part").write_text("x")
    print(file, folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _nothing_swept_yet():
    staging._swept.clear()
    yield
    staging._swept.clear()


@pytest.fixture
def later(monkeypatch):
    """`later(seconds)`: from then on it is so much later."""
    now = time.time

    def pass_by(seconds):
        monkeypatch.setattr(time, "time", lambda: now() + seconds)

    return pass_by


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_names_of_another_process_stay_until_it_is_gone(holder, tmp_path, later):
    later(30 * 86400)
    assert len(list(tmp_path.iterdir())) == 2
    assert sweep(tmp_path) == []
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    staging._swept.clear()
    assert len(sweep(tmp_path)) == 2 and not any(tmp_path.iterdir())


def test_what_was_only_just_made_is_left_alone(tmp_path, later):
    (tmp_path / staged_name()).mkdir()
    assert sweep(tmp_path) == []
    staging._swept.clear()
    later(GRACE_S + 1)
    assert len(sweep(tmp_path)) == 1


@pytest.mark.parametrize("name", [".foveate-mine", "foveate-part-0123456789ab", ".foveate-part-notes", "a"])
def test_other_names_are_not_ours(tmp_path, later, name):
    (tmp_path / name).mkdir()
    later(30 * 86400)
    assert sweep(tmp_path) == [] and (tmp_path / name).is_dir()


def test_a_link_is_not_followed_and_not_removed(tmp_path, later):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("mine")
    (tmp_path / staged_name()).symlink_to("mine")
    later(30 * 86400)
    assert sweep(tmp_path) == [] and (tmp_path / "mine" / "thesis").exists()


def test_what_belongs_to_somebody_else_stays(tmp_path, later, monkeypatch):
    path = tmp_path / staged_name()
    path.mkdir()
    later(GRACE_S + 1)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert not abandoned(path)


def test_where_nothing_can_be_locked_only_the_old_is_abandoned(tmp_path, later, monkeypatch):
    path = tmp_path / staged_name()
    path.mkdir()

    def refuse(*_):
        raise OSError(9, "no locks here")

    monkeypatch.setattr(staging.fcntl, "flock", refuse)
    later(3600)
    assert not abandoned(path)
    later(8 * 86400)
    assert abandoned(path)


def test_everything_that_stages_sweeps(tmp_path, later, monkeypatch):
    later(GRACE_S + 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for use in (
        lambda: replacing(tmp_path / "a.json"), lambda: replacing_folder(tmp_path / "out"), scratch,
        lambda: staged_folder(tmp_path), lambda: staged_file(tmp_path),
    ):  # fmt: skip
        staging._swept.clear()
        left = tmp_path / staged_name()
        left.mkdir()
        with use():
            assert not left.exists()
    staging._swept.clear()
    (tmp_path / staged_name()).mkdir()
    check_folder(tmp_path / "other")
    assert not any(p.name.startswith(".foveate-") for p in tmp_path.iterdir())


def test_a_folder_is_looked_through_once(tmp_path, later):
    later(GRACE_S + 1)
    sweep(tmp_path)
    (tmp_path / staged_name()).mkdir()
    assert sweep(tmp_path) == []


LATIN = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("name", ["plain", LATIN])
def test_libraries_get_names_they_can_read(tmp_path, name):
    """safetensors is written in Rust: a path is a str to it."""
    folder = tmp_path / name
    folder.mkdir()
    values = {"a": np.arange(3.0)}
    with replacing(folder / "w.safetensors") as part:
        save_file(values, part)
    assert sorted(p.name for p in folder.iterdir()) == ["w.safetensors"]
    with spelled(folder / "w.safetensors") as at:
        assert load_file(at)["a"].tolist() == [0, 1, 2] and at.suffix == ".safetensors"
    with replacing_folder(folder / "out") as part:
        save_file(values, part / "w.safetensors")
    assert (folder / "out" / "w.safetensors").is_file()

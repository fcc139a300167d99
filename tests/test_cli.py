"""The command line's contract: exit codes, one-line errors, JSON on stdout and prose on stderr."""

import json
import signal
import subprocess
import sys

import pytest


def foveate(*args: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    import os

    command = [sys.executable, "-m", "foveate", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200", **(env or {})})


@pytest.fixture
def here(monkeypatch, capsys):
    """`here(*args)`: the same in this process, which spares the imports."""
    from foveate.cli import main

    def run(*args: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["foveate", *map(str, args)])
        before = signal.getsignal(signal.SIGINT)
        try:
            main()
            code = 0
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 1
        finally:
            signal.signal(signal.SIGINT, before)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, code, said.out, said.err)

    return run


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit 2, nothing on stdout, one line that holds `words`, no traceback."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0], lines[0]


COMMANDS = ("fit", "run", "profile", "compare", "evaluate", "export", "train", "serve", "list", "doctor")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    from typer.testing import CliRunner

    from foveate.cli import app

    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "160"})
    assert done.exit_code == 0
    assert "Example" in done.output
    assert f"foveate {command}" in done.output
    assert "--json" in done.output


def test_list_speaks_json_on_stdout():
    done = foveate("list", "methods", "--json")
    assert done.returncode == 0, done.stderr
    names = {row["name"] for row in json.loads(done.stdout)["methods"]}
    assert {"tome", "topk", "pomt", "random"} <= names


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("list", "colours"), ("colours", "methods")),
        (("fit", "no_such_vit"), ("no_such_vit",)),
        (("fit", "--runtime", "tensorflow"), ("tensorflow", "openvino")),
        (("fit", "--precision", "fp4"), ("fp4", "bf16")),
        (("fit", "--planner", "magic"), ("magic", "pareto", "pomt")),
        (("fit", "--planner", "pomt", "--alpha", "1.5"), ("--alpha", "1.5", "0 to 1")),
        (("fit", "--planner", "pomt", "--method", "tome", "--method", "evit"), ("--planner pomt", "tome, evit")),
        (("fit", "--batch", "0"), ("--batch", "0", "1 to 4096")),
        (("fit", "--threads", "0"), ("--threads", "1 to 1024")),
        (("fit", "--max-drop", "-1"), ("--max-drop", "-1", "0 to 100")),
        (("fit", "--latency-ms", "0"), ("--latency-ms", "above 0")),
        (("fit", "--speedup", "0.9"), ("--speedup", "0.9", "above 1")),
        (("fit", "--latency-ms", "3", "--speedup", "2"), ("not both",)),
        (("fit", "--method", "tomee"), ("tomee", "tome")),
        (("fit", "--device", "tpu"), ("tpu", "cpu")),
        (("fit", "--images", "3"), ("--images", "20")),
        (("fit", "--data", "nowhere-at-all"), ("nowhere-at-all",)),
        (("run", "nowhere-at-all", "photo.jpg"), ("photo.jpg",)),
        (("export", "nowhere-at-all"), ("nowhere-at-all",)),
        (("compare", "--level", "1.5"), ("--level", "1.5")),
        (("evaluate", "no_such_vit"), ("no_such_vit",)),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else None,
)
def test_wrong_arguments_are_one_line_and_exit_2(args, words, tmp_path, here):
    out = ["--out", tmp_path / "out"] if args[0] in ("fit", "compare") else []
    refused(here(*args, *out), *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_so_it_is_in_a_process_of_its_own(tmp_path):
    refused(foveate("fit", "no_such_vit", "--out", tmp_path / "out"), "no_such_vit")


def test_bad_weights_are_named(tmp_path, here):
    (tmp_path / "broken.safetensors").write_bytes(b"\x00" * 40)
    refused(here("fit", "vit_tiny_patch16_224", "--weights", tmp_path / "broken.safetensors"), "broken.safetensors")
    refused(here("fit", "vit_tiny_patch16_224", "--weights", tmp_path / "none.safetensors"), "none.safetensors")


def test_output_in_the_way_is_refused_before_any_work(tmp_path, here, monkeypatch):
    # Work that is done before the refusal would be lost: here it fails the test.
    monkeypatch.setattr("foveate.fitting.job.prepare", lambda *args: pytest.fail("work was begun"))
    (tmp_path / "file").write_text("mine")
    refused(here("fit", "--out", tmp_path / "file"), "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    refused(here("fit", "--out", tmp_path / "folder"), "folder")
    assert (tmp_path / "folder" / "thesis.txt").read_text() == "mine"


def test_ctrl_c_ends_in_one_line_and_leaves_nothing(tmp_path, tmp_path_factory):
    import os
    import signal
    import time

    import psutil

    command = [sys.executable, "-m", "foveate", "fit", "--out", str(tmp_path / "out"), "--runtime", "onnxruntime"]
    temp = tmp_path / "temp"
    temp.mkdir()
    # torch puts a cache of its own into the folder for temporary files as soon as it is imported.
    env = {**os.environ, "TMPDIR": str(temp), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path_factory.mktemp("torch"))}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.partition(":")[0].endswith(" dense"):  # builds and worker processes are under way
                break
        time.sleep(2)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(30) == 130
    assert "Traceback" not in rest
    assert rest.strip().splitlines()[-1] == "stopped; nothing half-written"
    psutil.wait_procs(children, timeout=10)
    assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
    assert [p.name for p in tmp_path.iterdir()] == ["temp"]
    assert not list(temp.iterdir())


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    from foveate import cli

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(cli, "app", full)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "No space left on device" in capsys.readouterr().err

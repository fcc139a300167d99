"""Names that are no UTF-8, and terminals that cannot write what is: nothing is lost over how something is spelt."""

import json
import os
import subprocess
import sys

import pytest

from foveate.artefact import ModelCard
from foveate.console import escape, out, table
from foveate.files import printable
from foveate.plans import ModelRef
from foveate.result import Result, read_results, write_results

LATIN = os.fsdecode(b"donn\xe9es")


@pytest.mark.parametrize(
    ("text", "told"), [("plain", "plain"), ("données", "données"), (LATIN, r"donn\xe9es"), ("\ud800x", r"\ud800x")]
)
def test_what_is_no_unicode_is_escaped(text, told):
    assert printable(text) == told and printable(printable(text)) == told


def test_whatever_is_written_can_hold_any_name(tmp_path):
    row = Result(name="drop", value=1, unit="points", tags={"plan": LATIN, "all": [LATIN]}, origin={LATIN: "x"})
    (again,) = read_results(write_results(tmp_path / "results.jsonl", [row]))
    assert again.tags == {"plan": r"donn\xe9es", "all": [r"donn\xe9es"]} and again.origin == {r"donn\xe9es": "x"}
    assert ModelCard(file="m.onnx", classes=(LATIN,), note=LATIN).model_dump_json()
    assert ModelRef(name=LATIN, weights="file", tokens=5, depth=1, prefix=1).model_dump_json()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_cannot_write_a_name_gets_it_escaped(encoding):
    code = f"""
from foveate.console import err, escape, guarded, out
def app():
    for where in (out, err):
        where.print(escape("caf\\u00e9 \\u65e5\\u672c {ascii(LATIN)[1:-1]}"))
guarded(app)
"""
    env = os.environ | {"PYTHONIOENCODING": encoding, "NO_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env)
    assert done.returncode == 0, done.stderr
    for told in (done.stdout, done.stderr):
        assert told.startswith("café ".encode(encoding, "backslashreplace")) and told.rstrip().endswith(b"es")


@pytest.mark.parametrize("name", ["lr[bold]x", "a[/]b", "[red]", "back\\[bold]"])
def test_brackets_in_a_name_are_no_markup(name):
    with out.capture() as said:
        out.print(f"[bold]{escape(name)}[/]")
        out.print(f"written  {escape(name)}/")
        out.print(table("x", title=name))
    first, second, *rest = said.get().splitlines()
    assert (first, second) == (name, f"written  {name}/") and any(name in line for line in rest)


def test_a_terminal_obeys_no_name(capsys):
    with out.capture() as said:
        out.print(escape("cat\x1b[2J\x07dog\u202e"))
    assert said.get() == "cat\\x1b[2J\\x07dog\\u202e\n"


@pytest.mark.slow
def test_a_fit_on_a_folder_in_latin_1_ends_with_a_folder(tmp_path):
    import shutil
    from pathlib import Path

    import foveate

    folder = os.fsencode(tmp_path) + b"/" + os.fsencode(LATIN)
    Path(os.fsdecode(folder)).mkdir()
    bundled = sorted((Path(foveate.__file__).parent / "assets" / "photos").glob("*/*.jpg"))[::5]
    for i, photo in enumerate(bundled):
        shutil.copy(photo, folder + b"/caf\xe9%d.jpg" % i)
    command = [sys.executable, "-m", "foveate", "fit", "--data", folder, "--latency-ms", "100000"]
    command += ["--runtime", "onnxruntime", "--precision", "fp32", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 0, done.stderr
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text(encoding="utf-8"))
    assert r"donn\xe9es" in verdict["command"] and (tmp_path / "out" / "report.html").is_file()

"""Folders that are full, read-only, odd, linked or mounted, and folders that somebody else made or damaged."""

import contextlib
import json
import os
import random as dice_of
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from campaign import whole
from campaign.asked import EXPORT, FIT, PROFILE
from campaign.mutate import mutated_bytes, mutated_json
from campaign.tally import dice, tally, trials

pytestmark = pytest.mark.slow

ODD = {
    "brackets": "lr[bold]x [/] a", "spaces": " two  words ", "newline": "a\nb", "escape": "\x1b[31mred",
    "emoji": "\U0001f40c", "accents": "caf\u00e9 cafe\u0301", "latin1": os.fsdecode(b"caf\xe9"), "quotes": "a'b\"c",
    "dash": "-out", "percent": "%s {x}", "long": "n" * 255,
}  # fmt: skip


@contextlib.contextmanager
def mounted(folder: Path, *options: str):
    """A file system of its own on `folder`; skips where this user may not."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def refused(child, *words: str) -> str | None:
    """None where it ended with 2 and one line that says why."""
    if child.code != 2:
        return f"ended with {child.code}: {child.said}"
    errors = [line for line in child.said.splitlines() if line.startswith("error")]
    if "Traceback" in child.said or len(errors) != 1 or not any(word in errors[0] for word in words):
        return f"said {child.said}"
    return None


def commands(fitted, lesson):
    return {
        "fit": [*FIT, "--out", "disk/out"],
        "export": [*EXPORT, str(fitted), "--out", "disk/out"],
        "export eager": ["export", str(fitted), "--runtime", "eager", "--out", "disk/out"],
        "train": ["train", str(lesson / "recipe.py"), "--out", "disk/out"],
        "profile": [*PROFILE, "--out", "disk/out.json"],
    }


@pytest.mark.parametrize("where", ["out", "tmp", "cache"])
def test_full_disks(warm, fitted, lesson, place, where):
    """The disk of what is written, of temporary files, of the cache: a line, and what was there stays."""
    with tally(f"full disk ({where})") as found:
        folder = {"out": place.root / "disk", "tmp": place.root / "tmp", "cache": place.root / "cache"}[where]
        for room in ("64k", "700k")[: 1 if where != "out" else 2]:
            with mounted(folder, f"size={room}"):
                for name, args in commands(fitted, lesson).items():
                    if where != "out":
                        (place.root / "disk").mkdir(exist_ok=True)
                        shutil.rmtree(place.root / "disk" / "out", ignore_errors=True)
                    child = warm.run(args, place)
                    fault = None
                    if child.code not in (0, 3):  # the cache can be done without, and so can temporary files, or most
                        fault = refused(child, "No space left on device")
                    elif where == "out" and name != "profile":
                        fault = f"it fitted into {room}?"
                    left = [p for p in place.leftovers() if "lost+found" not in p]
                    fault = fault or (f"left {left}: {child.said}" if left else None)
                    found.count(fault and f"{name}, {room}: {fault}")
                    for entry in folder.iterdir():
                        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        found.facts["commands"] = len(commands(fitted, lesson))


def test_a_full_disk_leaves_what_was_there(warm, fitted, place):
    room = sum(4096 + p.stat().st_size for p in fitted.rglob("*")) + 150_000
    with tally("full disk, over an earlier result") as found, mounted(place.root / "disk", f"size={room}"):
        out = place.root / "disk" / "out"
        shutil.copytree(fitted, out)
        before = whole.digest(out)
        for name in ("onnxruntime", "eager"):
            child = warm.run(["export", str(fitted), "--runtime", name, "--out", "disk/out"], place)
            found.count(refused(child, "No space left on device") or whole.either(out, before))


def test_read_only_disks(warm, fitted, lesson, place):
    with tally("read-only disk") as found, mounted(place.root / "disk", "size=1m,ro"):
        for name, args in commands(fitted, lesson).items():
            child = warm.run(args, place)
            fault = refused(child, "Read-only file system")
            if name == "profile" and child.code == 0:
                fault = "it wrote there?"
            found.count(fault and f"{name}: {fault}")


def test_odd_names(warm, fitted, lesson, place):
    """Wherever a name may stand: written to, read from, shown."""
    with tally("odd names") as found:
        for kind, name in ODD.items():
            for args in (
                ["export", str(fitted), "--runtime", "onnxruntime", f"--out=./{name}/out"],
                ["train", str(lesson / "recipe.py"), "epochs=1", f"--out=./{name}/run"],
                ["run", f"./{name}/out", f"./{name}/photo.png"],
            ):
                if args[0] == "run":
                    shutil.copy(lesson / "data" / "val" / "red" / "00.png", place.root / name / "photo.png")
                child = warm.run(args, place)
                fault = None if child.code == 0 else f"ended with {child.code}: {child.said}"
                if "\x1b[31m" in child.said:
                    fault = "an escape sequence reached the terminal"
                found.count(fault and f"{kind}, {args[0]}: {fault}")


def test_linked_and_mounted_folders(warm, fitted, place):
    """A link stays one, a mount point is filled, the current folder too; a link to nowhere and a file are refused."""
    with tally("linked and mounted folders") as found:
        (place.root / "real").mkdir()
        (place.root / "link").symlink_to("real")
        (place.root / "nowhere").symlink_to("not-there")
        (place.root / "file").write_text("mine")
        (place.root / "mine").mkdir()
        (place.root / "mine" / "thesis.txt").write_text("mine")
        args = lambda out: ["export", str(fitted), "--runtime", "onnxruntime", "--out", out]
        for _ in range(2):  # where nothing is, and over what is there
            child = warm.run(args("link"), place)
            fault = whole.artefact(place.root / "real") if child.code == 0 else child.said
            found.count(fault or (None if (place.root / "link").is_symlink() else "the link is gone"))
            here = place.root / "here"
            here.mkdir(exist_ok=True)
            child = warm.run(args("."), place, cwd=here)
            found.count(whole.artefact(here) if child.code == 0 else child.said)
        for out in ("nowhere", "file", "mine"):
            child = warm.run(args(out), place)
            found.count(refused(child, out))
        found.count(None if (place.root / "mine" / "thesis.txt").read_text() == "mine" else "a thesis is gone")
        with mounted(place.root / "volume", "size=64m"):
            for _ in range(2):
                child = warm.run(args("volume"), place)
                found.count(whole.artefact(place.root / "volume") if child.code == 0 else child.said)


READER = """
import json, os, resource, sys, time
from pathlib import Path
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # libraries print
sys.path.insert(0, sys.argv[1])
from campaign.reading import read_folder
print("ready", file=answers)
for line in sys.stdin:
    began = time.monotonic()
    fault = read_folder(Path(json.loads(line)))
    took, peak = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps([fault, took, peak]), file=answers)
"""


def test_mutated_folders(fitted, lesson, warm, place):
    """A folder that somebody else made, or a disk damaged: read, or refused in a line, in bounded time and memory."""
    tests = str(Path(__file__).parent.parent)
    trained = place.root / "trained"
    assert warm.run(["train", str(lesson / "recipe.py"), "epochs=1", "--out", str(trained)], place).code == 0
    exported = place.root / "exported"
    child = warm.run([*EXPORT, str(fitted), "--out", str(exported)], place)
    assert child.code == 0, child.said
    data = place.root / "data"
    (data / "photos").mkdir(parents=True)
    for i, photo in enumerate(sorted((lesson / "data" / "val").rglob("*.png"))):
        shutil.copy(photo, data / "photos" / f"{i}.png")
    (data / "labels.csv").write_text("file,label\n" + "".join(f"photos/{i}.png,{i % 3}\n" for i in range(12)))
    (data / "metadata.jsonl").write_text("".join(
        json.dumps({"file_name": f"photos/{i}.png", "label": i % 3}) + "\n" for i in range(12)
    ))  # fmt: skip
    sources = (exported, fitted, trained, data)
    with tally("mutated folders") as found:
        random, most, longest = dice("folders"), 0, 0.0
        bound = lambda: resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30, 4 * 2**30))

        def reader():
            child = subprocess.Popen(
                [sys.executable, "-c", READER, tests], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                preexec_fn=bound, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
            return child

        child = reader()
        for i in range(trials(2000)):
            source = sources[i % len(sources)]
            at = place.root / "mutated"
            shutil.rmtree(at, ignore_errors=True)
            shutil.copytree(source, at)
            what = mutate(at, random)
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(json.dumps(str(at)) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
            if not line:
                code = child.wait()
                # A model file is a program to its runtime, and a damaged one may end it; nothing else may.
                fault = f"the process ended with {code}"
                child = reader()
            else:
                fault, took, peak = json.loads(line)
                most, longest = max(most, peak), max(longest, took)
                if fault is None and took > 20:
                    fault = f"took {took:.0f} s"
            found.count(fault and f"trial {i}, {source.name}: {what}: {fault}")
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
        found.facts |= {"longest_s": round(longest, 1), "peak_mb": most}
        assert most < 3000


def mutate(folder: Path, random: dice_of.Random) -> str:
    """Change one file of it; what was changed."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".html", ".png", ".jpg"))
    file = random.choice(files)
    kind = random.random()
    name = str(file.relative_to(folder))
    if file.suffix == ".json" and kind < 0.8:
        value, what = mutated_json(json.loads(file.read_text()), random)
        file.write_text(json.dumps(value))
        return f"{name}: {what}"
    if kind < 0.05:
        file.unlink()
        return f"{name} removed"
    if kind < 0.1:
        file.unlink()
        file.symlink_to(random.choice(["/dev/zero", "/etc/passwd", "..", file.name, "/proc/self/mem"]))
        return f"{name} -> {file.readlink()}"
    if kind < 0.13:
        file.unlink()
        os.mkfifo(file)
        return f"{name} a pipe"
    data, what = mutated_bytes(file.read_bytes(), random)
    file.write_bytes(data)
    return f"{name}: {what}"

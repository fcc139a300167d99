"""The wheel alone, in an environment of its own: what it brings, how large it is, that it answers as the full one."""

import json
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

import numpy as np
import pytest

import foveate

ROOT = Path(__file__).parent.parent
MOST_MB = 600


def do(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """(python, folder) of an environment that holds the wheel with `serve`, and nothing of this one."""
    home = tmp_path_factory.mktemp("clean")
    do(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", home, ROOT)
    [wheel] = home.glob("foveate-*.whl")
    venv.create(home / "env", with_pip=True)
    python = home / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", f"{wheel}[serve]"]
    done = subprocess.run(list(map(str, install)), capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no package registry: {done.stderr.strip().splitlines()[-1][:200]}")
    return python, home / "env"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder of the bundled model, reduced, for ONNX Runtime."""
    loaded = foveate.load()
    plan = foveate.Plan(
        model=loaded.ref, steps=(foveate.Step(block=5, method="tome", tokens=120),),
        target=foveate.Target(runtime="onnxruntime", threads=1),
    )  # fmt: skip
    out = tmp_path_factory.mktemp("fitted") / "out"
    return foveate.export(loaded.model, plan, out, preprocess=loaded.preprocess, classes=loaded.classes)


@pytest.mark.slow
def test_it_brings_no_torch_and_is_small(clean):
    python, env = clean
    assert do(python, "-c", "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('timm'))").split() == [
        "None", "None",
    ]  # fmt: skip
    megabytes = sum(f.stat().st_size for f in env.rglob("*") if f.is_file() and not f.is_symlink()) / 1e6
    print(f"{megabytes:.0f} MB")
    assert megabytes < MOST_MB


@pytest.mark.slow
def test_it_answers_as_the_full_one(clean, fitted, photos, tmp_path):
    code = (
        "import sys, numpy as np, foveate\n"
        "model = foveate.open(sys.argv[1], threads=1)\n"
        "np.save(sys.argv[2], model(model._inputs(sys.argv[3:])))\n"
    )
    do(clean[0], "-c", code, fitted, tmp_path / "found.npy", *photos)
    here = foveate.open(fitted, threads=1)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), here(here._inputs(photos)))


@pytest.mark.slow
def test_it_runs_and_serves(clean, fitted, photos):
    said = json.loads(do(clean[0], "-m", "foveate", "run", fitted, photos[0], "--json"))
    assert said["outputs"] == "classes" and len(said["images"][0]["top"]) > 1
    command = [clean[0], "-m", "foveate", "serve", fitted, "--port", "0", "--json"]
    server = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        request = urllib.request.Request(f"{url}/classify", photos[0].read_bytes(), {"Content-Type": "image/jpeg"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["top"][0]["class"] in foveate.open(fitted).classes
    finally:
        server.terminate()
        server.communicate(timeout=30)


@pytest.mark.slow
def test_what_needs_torch_says_what_to_install(clean):
    done = subprocess.run([str(clean[0]), "-m", "foveate", "fit"], capture_output=True, text=True)
    assert done.returncode == 2 and "pip install 'foveate[fit]'" in done.stderr and "Traceback" not in done.stderr
    done = subprocess.run([str(clean[0]), "-c", "import foveate; foveate.load()"], capture_output=True, text=True)
    assert "foveate.load needs torch: pip install 'foveate[fit]'" in done.stderr

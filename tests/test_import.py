"""Importing the package stays cheap and has no effect."""

import subprocess
import sys

import pytest

HEAVY = {"timm", "transformers", "onnx", "onnxruntime", "openvino", "nncf", "torchvision", "scipy", "torch"}
MODULES = ("foveate", "foveate.cli")


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", MODULES)
def test_importing_loads_nothing_heavy(module):
    assert loaded_by(f"import {module}") == set()


def test_the_test_above_can_fail():
    assert "scipy" in loaded_by("import scipy")


def over_torch_seconds(statement: str, times: int = 3) -> float:
    code = f"import torch, time; t = time.process_time(); {statement}; print(time.process_time() - t)"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(times)
    ]
    return min(float(r.stdout) for r in runs)


def test_import_takes_under_300_ms_beyond_torch():
    assert over_torch_seconds("import foveate") < 0.3


def test_the_import_clock_can_fail():
    assert over_torch_seconds("import foveate; sum(i * i for i in range(10**7))", times=1) > 0.3


ACCELERATOR = "import torch, foveate, foveate.adapters, foveate.methods; print(torch.cuda.is_initialized())"


def test_importing_initialises_no_accelerator():
    done = subprocess.run([sys.executable, "-c", ACCELERATOR], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_accelerator_check_can_fail():
    pretend = ACCELERATOR.replace("print(", "torch.cuda._initialized = True; print(")
    done = subprocess.run([sys.executable, "-c", pretend], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_every_public_name_resolves():
    import foveate

    for name in foveate.__all__:
        assert getattr(foveate, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'foveal_pit'"):
        _ = foveate.foveal_pit

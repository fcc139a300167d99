"""Devices: which there are and why not, how they reach a runner, and a GPU's call without a GPU."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from support.builds import IMAGE
from support.families import VARIANTS, make
from torch._subclasses.fake_tensor import FakeTensorMode

from foveate.adapters import adapt, describe
from foveate.errors import InputError, NotAvailable
from foveate.methods import METHODS
from foveate.plans import Step
from foveate.runtimes import RUNTIMES, Runner, Worker, _cuda, _torch, why_not
from foveate.runtimes import compile as compiling
from foveate.runtimes._export import moved, program
from foveate.target import Target

TORCH = ("eager", "compile")


@pytest.fixture
def gpus(monkeypatch):
    """gpus(count, capability): what torch finds, as far as it is asked before anything runs."""

    def pretend(count: int, capability: tuple[int, int] = (9, 0)) -> None:
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        monkeypatch.setattr(compiling, "missing", lambda name: None)

    return pretend


@pytest.mark.parametrize("runtime", TORCH)
def test_why_a_gpu_cannot_be_used(runtime, gpus, monkeypatch):
    cls = RUNTIMES[runtime]
    gpus(0)
    monkeypatch.setattr(torch.cuda, "init", lambda: (_ for _ in ()).throw(RuntimeError("Found no driver. Get one.")))
    assert cls.why_not("fp32", "cuda") == "no GPU found: Found no driver" and cls.precisions("cuda") == ()
    gpus(2)
    assert cls.why_not("fp32", "cuda:1") is None and cls.precisions("cuda") == ("fp32", "bf16", "fp16")
    assert cls.why_not("fp32", "cuda:2") == "there is no cuda:2 here; GPUs found: 2, from cuda:0 on"
    gpus(1, (7, 5))
    assert cls.precisions("cuda") == ("fp32", "fp16") and cls.why_not(device="cuda") is None
    why = "bf16 needs compute capability 8.0 (Ampere or newer); cuda:0 has 7.5"
    assert why_not(Target(runtime=runtime, device="cuda:0", precision="bf16")) == why
    monkeypatch.setattr(torch.version, "cuda", None)
    assert cls.why_not("fp32", "cuda") == f"this torch ({torch.__version__}) was built without CUDA"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cls.why_not("fp32", "cuda") == "torch is not installed: pip install torch"


def test_what_the_compiler_needs_for_a_gpu(gpus, monkeypatch):
    gpus(1)
    monkeypatch.setattr(compiling, "missing", lambda name: f"{name} is not installed")
    assert RUNTIMES["compile"].why_not("fp32", "cuda") == "triton is not installed"
    monkeypatch.setattr(compiling, "missing", lambda name: None)
    assert RUNTIMES["compile"].why_not("fp32", "cuda") is None


def test_a_file_runs_on_the_kind_of_device_it_was_compiled_for(tmp_path):
    package, program, broken = (tmp_path / name for name in ("package.pt2", "program.pt2", "broken.pt2"))
    for path, name in ((package, "m/data/aotinductor/model/a.so"), (program, "m/models/model.json")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "")
    broken.write_bytes(b"PK nothing")
    compiling.check_kind(package, Target())
    compiling.check_kind(program, Target(device="cuda:1"))
    with pytest.raises(InputError, match=r"package\.pt2 was compiled for cpu, not for cuda"):
        compiling.check_kind(package, Target(device="cuda"))
    with pytest.raises(InputError, match=r"program\.pt2 was compiled for cuda, not for cpu"):
        compiling.check_kind(program, Target())
    with pytest.raises(InputError, match=r"broken\.pt2 is no file of torch's"):
        compiling.check_kind(broken, Target())


@pytest.mark.slow
@torch.inference_mode()
def test_what_a_gpu_compiles_when_it_loads_answers_as_before(model):
    """On the CPU, where Inductor writes other kernels: the same calls, from the program on."""
    x = torch.randn(1, 3, 64, 64)
    found = compiling.compiled(program(model, (1, 3, 64, 64)).module(check_guards=False), is_open=False)
    torch.testing.assert_close(found(x), model(x), atol=1e-4, rtol=1e-4)
    blocks = torch.nn.Sequential(*model.host.blocks).eval()
    width = model.facts.width
    found = compiling.compiled(program(blocks, (1, None, width)).module(check_guards=False), is_open=True)
    for n in (5, 17, 9):
        x = torch.randn(1, n, width)
        torch.testing.assert_close(found(x), blocks(x), atol=1e-4, rtol=1e-4)


def test_a_device_that_a_runtime_or_the_world_has_not(model, tmp_path, built):
    onnx = RUNTIMES["onnxruntime"]
    assert onnx.why_not("fp32", "cuda") == "onnxruntime has no cuda; it has cpu" and onnx.precisions("cuda:3") == ()
    with pytest.raises(InputError, match="'tpu' is no device; allowed: cpu, cuda or cuda:N"):
        onnx.why_not("fp32", "tpu")
    with pytest.raises(NotAvailable, match="cannot build onnxruntime fp32: onnxruntime has no cuda"):
        onnx.build(model, tmp_path, shape=(1, *IMAGE), precision="fp32", device="cuda")
    with pytest.raises(NotAvailable, match="cannot run onnxruntime fp32: onnxruntime has no cuda"):
        onnx.load(built("onnxruntime", "fp32"), precision="fp32", threads=1, device="cuda")
    with pytest.raises(NotAvailable, match="cannot run onnxruntime: onnxruntime has no cuda"):
        Worker("onnxruntime", threads=1, device="cuda")
    assert RUNTIMES["eager"].why_not("fp16") == "fp16 is for cuda alone: CPUs that compute in it are rare"
    assert "fp16" not in RUNTIMES["compile"].precisions()


ELSEWHERE = '''
from foveate.runtimes import RUNTIMES, Runner, Runtime

@RUNTIMES.register("elsewhere")
class Elsewhere(Runtime):
    """A runtime for a GPU that answers with the number of the one it was to run on."""
    devices = ("cuda",)
    suffix = ".txt"

    @classmethod
    def _why_not(cls, precision, device):
        return None

    @classmethod
    def _build(cls, model, target, *, shape, precision, device, calibration):
        target.write_text(device)

    @classmethod
    def _load(cls, path, *, precision, threads, device, shape):
        assert path.read_text() == device
        return Runner(lambda x: x + int(device[5:]), (None,), lambda x: lambda: None)

    @classmethod
    def device_facts(cls, device):
        return {"name": f"board {device}"}
'''


def test_the_device_reaches_build_process_and_runner(tmp_path, monkeypatch):
    (tmp_path / "foveate_elsewhere.py").write_text(ELSEWHERE)
    monkeypatch.syspath_prepend(tmp_path)
    import foveate_elsewhere  # type: ignore[import-not-found]  # noqa: F401

    x = np.ones(3, np.float32)
    try:
        file = RUNTIMES["elsewhere"].build(
            torch.nn.Identity().eval(), tmp_path / "out", shape=(3,), precision="fp32", device="cuda:2"
        )
        with Worker("elsewhere", threads=1, device="cuda:2") as worker:
            worker.load("m", file, precision="fp32")
            assert worker.run("m", x[:1], batch=1) == [3.0]
            assert worker.time(["m"], [x], rounds=4, resident=True).shape == (1, 4)
            facts = worker.facts()
            assert (facts["device"], facts["name"]) == ("cuda:2", "board cuda:2")
        assert RUNTIMES["elsewhere"].why_not() == "elsewhere has no cpu; it has cuda"
    finally:
        del RUNTIMES._items["elsewhere"]


def test_a_resident_run_is_the_plain_call_on_the_host():
    asked = []
    plain = Runner(lambda x: asked.append(x) or x, (1, 2))
    x = np.zeros((1, 2), np.float32)
    plain.resident(x)()
    assert len(asked) == 1
    for call in (plain, plain.resident):
        with pytest.raises(InputError, match=r"\(2, 2\).*\(1, 2\)"):
            call(np.zeros((2, 2), np.float32))


# A GPU's call, with what it asks of CUDA replaced: the order of copies, runs and waits, and whose memory the answer is.


@pytest.fixture
def log(monkeypatch) -> list[str]:
    """CUDA's part done by hand: a replay runs the module into the captured output, as a graph would."""
    done: list[str] = []

    def capture(module, buffer, pool):
        output = module(buffer).clone()
        done.append(f"capture {tuple(buffer.shape)} in {pool}")

        @torch.inference_mode()
        def replay():
            done.append("replay")
            output.copy_(module(buffer))

        return replay, output, "pool"

    monkeypatch.setattr(_cuda, "capture", torch.inference_mode()(capture))
    monkeypatch.setattr(_cuda, "pinned", torch.empty_like)
    monkeypatch.setattr(_cuda, "wait", lambda device: done.append("wait"))
    return done


def test_a_graph_is_captured_once_a_shape_and_answers_with_its_input(log):
    call = _cuda.Replay(lambda x: 2 * x + 1, "cpu")
    a, b = np.ones((1, 3), np.float32), np.full((1, 3), 5.0, np.float32)
    b.flags.writeable = False
    first, second = call(a), call(b)
    assert np.array_equal(first, 2 * a + 1) and np.array_equal(second, 2 * b + 1)  # the first is nobody's buffer
    assert log == ["capture (1, 3) in None", "replay", "wait", "replay", "wait"]
    call(np.ones((2, 3), np.float32))
    assert log[5] == "capture (2, 3) in pool" and len(call.captured) == 2


def test_a_resident_run_copies_nothing_and_waits(log):
    call = _cuda.Replay(lambda x: 2 * x, "cpu")
    run = call.resident(np.full((1, 3), 7.0, np.float32))
    log.clear()
    run()
    assert log == ["replay", "wait"]
    (c,) = call.captured.values()
    assert c.output.tolist() == [[14.0] * 3] and c.host_output.tolist() != c.output.tolist()


def test_a_module_that_answers_from_elsewhere_is_refused(log):
    with pytest.raises(RuntimeError, match="output is on meta: it does not run on cpu"):
        _cuda.Replay(lambda x: x.to("meta"), "cpu")(np.ones((1, 3), np.float32))


def test_a_runner_on_a_gpu_names_it_with_its_number(log, monkeypatch):
    made = []
    monkeypatch.setattr(_cuda, "Replay", lambda module, device: made.append(device) or _cuda.Captured)
    monkeypatch.setattr(_cuda.Captured, "resident", None, raising=False)
    for device in ("cuda", "cuda:1"):
        _torch.runner(lambda x: x, (None,), Target(device=device))
    assert made == ["cuda:0", "cuda:1"]


# What `eager` and `compile` take to a GPU: every method's graph, walked with tensors that have a device and no data.


def walked(exported, device: str | None) -> torch.Tensor:
    """The output of a program moved to `device` (or not), for an input that is on "cuda:0"; nothing is computed."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        program = exported if device is None else moved(exported, Target(device=device))
        return program.module(check_guards=False)(torch.zeros(1, *IMAGE, device="cuda:0"))


@pytest.mark.parametrize("variant", ["vit", *(pytest.param(v, marks=pytest.mark.slow) for v in VARIANTS if v != "vit")])
def test_nothing_of_a_program_stays_behind_when_it_is_moved(variant):
    model = make(variant)
    facts = describe(model)
    able = [m for m in METHODS if facts.has_class_token or "class_row" not in METHODS[m].needs]
    last = facts.depth - 1
    for three in (able[i : i + 3] for i in range(0, len(able), 3)):
        steps = [Step(block=b, method=m, tokens=facts.prefix + 14 - 3 * b) for b, m in enumerate(three) if b <= last]
        exported = program(adapt(model, steps).eval(), (1, *IMAGE), "fp16")
        out = walked(exported, "cuda")
        assert out.device == torch.device("cuda:0") and out.dtype == torch.float32


def test_a_program_that_stayed_behind_is_seen(model):
    with pytest.raises(RuntimeError, match=r"[Dd]evice"):
        walked(program(model, (1, *IMAGE)), None)


BLOCKED = """
import sys
for name in ("openvino", "onnxruntime", "onnx", "onnxscript", "nncf"):
    sys.modules[name] = None  # importing it now fails, as if absent
import json, tempfile
from pathlib import Path
import numpy as np, torch
from torch import nn
import foveate.runtimes
from foveate.commands.listing import listing, offered
from foveate.runtimes import RUNTIMES, available
print(json.dumps([available(), listing("runtimes"), [offered(c, d) for c in RUNTIMES.values() for d in c.devices]]))
model = nn.Linear(4, 2).eval()
with tempfile.TemporaryDirectory() as folder:
    file = RUNTIMES["eager"].build(model, Path(folder), shape=(1, 4), precision="fp32")
    run = RUNTIMES["eager"].load(file, precision="fp32", threads=1)
    x = np.ones((1, 4), np.float32)
    assert np.allclose(run(x), model(torch.from_numpy(x)).detach().numpy())
"""


@pytest.mark.slow
def test_torch_alone_is_enough_for_its_runtimes():
    """As on a GPU machine that has neither OpenVINO nor ONNX: they are told as missing, and nothing else suffers."""
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "openvino is not installed" in done.stdout and "onnxruntime is not installed" in done.stdout
    assert "available: fp32" in done.stdout

"""Laws over every runtime and precision: the built file answers as the model does, and bad input is named."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from support.builds import IMAGE
from torch import nn

from foveate.errors import InputError, NotAvailable
from foveate.runtimes import RUNTIMES, Runtime, Worker, _base, available, openvino, sharing_graphs
from foveate.runtimes._export import float_nodes, onnx_file, program
from foveate.target import PRECISIONS

ALL = [(name, p) for name, cls in RUNTIMES.items() for p in cls.kinds]
# The compiler takes some 20 s a file, NNCF 10 s, importing torch in another process 3 to 8 s.
SLOW = {("compile", "fp32"), ("compile", "bf16"), ("openvino", "int8"), ("eager", "bf16")}
CASES = [
    pytest.param(*c, marks=pytest.mark.slow, id="-".join(c)) if c in SLOW else pytest.param(*c, id="-".join(c))
    for c in ALL
]
FLOOR_DB = {"fp32": 90.0, "bf16": 25.0, "fp16": 35.0, "int8": 15.0}


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Signal to quantisation noise."""
    return float(10 * np.log10((reference**2).sum() / ((reference - other) ** 2).sum()))


def check_laws(runtime: str, path: Path, precision: str, images: np.ndarray, expected: np.ndarray) -> None:
    """In a fresh process: the model's numbers, float32 at both ends, batches cut right, wrong input named."""
    with Worker(runtime, threads=1, device="cpu") as worker:
        worker.load("m", path, precision=precision)
        out = worker.run("m", images, batch=1)
        assert out.dtype == np.float32 and out.shape == expected.shape
        if precision == "fp32":
            assert np.abs(out - expected).max() <= 1e-4 * np.abs(expected).max()
        assert sqnr_db(expected, out) >= FLOOR_DB[precision]
        assert (out.argmax(1) == expected.argmax(1)).mean() >= 0.9
        assert np.array_equal(worker.run("m", images[:1], batch=1), out[:1])  # nothing is left over from another run
        with pytest.raises(InputError, match=r"\(1, 3, 32, 32\).*\(1, 3, 64, 64\)"):
            worker.run("m", np.zeros((1, 3, 32, 32), np.float32), batch=1)
        with pytest.raises(InputError, match=r"float64.*float32"):
            worker.run("m", images[:1].astype(np.float64), batch=1)
        with pytest.raises(InputError, match=r"\(2, 3, 64, 64\).*takes \(1, 3, 64, 64\)"):
            worker.load("n", path, precision=precision, shape=(2, *IMAGE))
        ms = worker.time(["m", "m"], [images[:1], images[1:2]], rounds=5)
        assert ms.shape == (2, 5) and (ms > 0).all()
        facts = worker.facts()
        assert facts["runtime"] == runtime and facts["threads"] == 1 and facts["peak_rss_bytes"] > 1e6
        assert set(facts["versions"]) == set(RUNTIMES[runtime].packages)
        assert set(facts["quiet"]) == {"idle_cores", "other_cores", "seconds"} and facts["device"] == "cpu"
        assert worker.time(["m"], [images[:1]], rounds=2, resident=True).shape == (1, 2)


@pytest.mark.parametrize(("runtime", "precision"), CASES)
def test_laws(runtime, precision, built, images, expected):
    path = built(runtime, precision)
    assert path.name == f"{runtime}-{precision}{RUNTIMES[runtime].suffix}"
    assert not [f for f in path.parent.iterdir() if f.name.startswith(".")]
    check_laws(runtime, path, precision, images, expected)


def test_building_leaves_the_model_as_it_was(model, images, expected, built):
    built("onnxruntime", "fp32")
    program(model, (1, *IMAGE), "bf16")
    with torch.no_grad():
        assert np.array_equal(model(torch.from_numpy(images)).numpy(), expected)
    assert next(model.parameters()).dtype == torch.float32 and next(model.parameters()).requires_grad


def test_export_says_nothing(model, tmp_path, capfd):
    onnx_file(model, (2, *IMAGE), tmp_path / "m.onnx")
    assert capfd.readouterr() == ("", "")


def test_a_runtime_registered_elsewhere_keeps_the_laws(plugin, built, model, images, expected, tmp_path):
    path = RUNTIMES["plugin"].build(model, tmp_path / "out", shape=(1, *IMAGE), precision="fp32")
    assert sorted(f.name for f in path.parent.iterdir()) == ["plugin-fp32.main", "plugin-fp32.shape"]
    check_laws("plugin", path, "fp32", images, expected)
    with pytest.raises(NotAvailable, match="plugin has no int8"):
        RUNTIMES["plugin"].build(model, tmp_path, shape=(1, *IMAGE), precision="int8", calibration=images)


class Stack(nn.Sequential):
    """Blocks without the rest, as profiling builds them."""


@pytest.fixture(scope="module")
def stack(model):
    return Stack(*model.host.blocks).eval()


@pytest.mark.parametrize(
    "runtime",
    [pytest.param(r, marks=pytest.mark.slow) if r in ("compile", "eager") else r for r in RUNTIMES],
)
def test_an_open_dimension_is_fixed_when_loading(runtime, stack, built, tmp_path):
    path = RUNTIMES[runtime].build(stack, tmp_path, shape=(1, None, 64), precision="fp32")
    rng = np.random.default_rng(1)
    inputs = {n: rng.standard_normal((1, n, 64)).astype(np.float32) for n in (5, 17)}
    with Worker(runtime, threads=1) as worker:
        worker.load("open", path, precision="fp32")
        for n, x in inputs.items():
            worker.load(f"{n}", path, precision="fp32", shape=(1, n, 64))
            with torch.no_grad():
                want = stack(torch.from_numpy(x)).numpy()
            for key in ("open", f"{n}"):
                np.testing.assert_allclose(worker.run(key, x, batch=1), want, rtol=1e-4, atol=1e-4)
        with pytest.raises(InputError, match=r"\(1, 5, 64\).*takes \(1, 17, 64\)"):
            worker.run("17", inputs[5], batch=1)
        with pytest.raises(InputError, match=r"\(1, 5, 32\)"):
            worker.load("bad", path, precision="fp32", shape=(1, 5, 32))


@pytest.mark.slow
def test_an_open_batch_and_a_fixed_one(model, images, expected, tmp_path):
    path = RUNTIMES["openvino"].build(model, tmp_path, shape=(None, *IMAGE), precision="fp32")
    with Worker("openvino", threads=1) as worker:
        worker.load("m", path, precision="fp32", shape=(5, *IMAGE))
        # 24 images in fives: the last batch is filled up, and what was filled in does not come out.
        np.testing.assert_allclose(worker.run("m", images, batch=5), expected, rtol=1e-3, atol=1e-4)


def test_what_stays_float_in_int8(model, built, tmp_path):
    import onnx

    graph = onnx.load(onnx_file(model, (1, *IMAGE), tmp_path / "m.onnx"))
    stay = float_nodes(graph)
    products = [n for n in graph.graph.node if n.op_type in ("MatMul", "Gemm")]
    # Two blocks with four linear layers each, and the head.
    assert len([n for n in products if n.name not in stay]) == 9
    # Two products in each attention, the scores and the one-hot product of the merge.
    assert len([n for n in products if n.name in stay]) == 6
    assert {n.op_type for n in graph.graph.node if n.name in stay} >= {"TopK", "MatMul"}


def test_int8_products_are_integer_ones_in_onnxruntime(built):
    """Three linear layers in each of two blocks, and the head; the one after the GELU stays float."""
    import onnx

    kinds = [n.op_type for n in onnx.load(built("onnxruntime", "int8")).graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 6 and kinds.count("QGemm") == 1


@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_a_graph_is_half_inside_and_float32_at_the_borders(model, images, expected, precision, dtype):
    graph = program(model, (1, *IMAGE), precision)
    with torch.no_grad():
        out = graph.module()(torch.from_numpy(images[:1]))
    assert out.dtype == torch.float32 and sqnr_db(expected[:1], out.numpy()) >= FLOOR_DB[precision]
    linear = [n for n in graph.graph.nodes if n.target is torch.ops.aten.linear.default]
    assert {n.meta["val"].dtype for n in linear} == {dtype}


# Not available, and wrong arguments


@pytest.mark.parametrize(
    ("runtime", "package"),
    [("eager", "torch"), ("compile", "torch"), ("onnxruntime", "onnxruntime"), ("openvino", "openvino")],
)
def test_a_missing_package_is_a_reason(runtime, package, monkeypatch, tmp_path, model):
    monkeypatch.setitem(sys.modules, package, None)
    cls = RUNTIMES[runtime]
    assert cls.why_not() == f"{package} is not installed: pip install {package}"
    assert cls.precisions() == ()
    with pytest.raises(NotAvailable, match=f"{runtime} fp32: {package} is not installed"):
        cls.build(model, tmp_path, shape=(1, *IMAGE), precision="fp32")
    with pytest.raises(NotAvailable, match=f"{package} is not installed"):
        Worker(runtime, threads=1)


def test_why_not_is_none_here_for_what_the_package_depends_on():
    found = available()
    assert all(found[name]["cpu"]["fp32"] is None for name in ("eager", "onnxruntime", "openvino"))
    assert list(found["openvino"]["cpu"]) == ["fp32", "bf16", "int8"] and list(found["eager"]) == ["cpu", "cuda"]


def test_what_else_can_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    assert RUNTIMES["openvino"].why_not("int8") == "nncf is not installed: pip install 'foveate[quant]'"
    monkeypatch.setenv("PATH", "")
    assert "C++ compiler" in str(RUNTIMES["compile"].why_not())
    monkeypatch.setattr(_base, "cpu_flags", lambda: frozenset({"avx2"}))
    assert "bf16" in str(RUNTIMES["eager"].why_not("bf16")) and RUNTIMES["eager"].why_not() is None
    monkeypatch.setattr(openvino, "_capabilities", lambda: ("FP32", "INT8"))
    assert "FP32, INT8" in str(RUNTIMES["openvino"].why_not("bf16"))
    assert "fp32, int8" in str(RUNTIMES["onnxruntime"].why_not("bf16"))
    with pytest.raises(InputError, match=r"fp8.*fp32"):
        RUNTIMES["eager"].why_not("fp8")


def test_wrong_arguments_are_named(model, images, tmp_path, built):
    build, load = RUNTIMES["onnxruntime"].build, RUNTIMES["onnxruntime"].load
    with pytest.raises(InputError, match="int8 needs calibration"):
        build(model, tmp_path, shape=(1, *IMAGE), precision="int8")
    with pytest.raises(InputError, match=r"\(24, 3, 8, 8\).*\(any, 3, 64, 64\)"):
        build(model, tmp_path, shape=(1, *IMAGE), precision="int8", calibration=images[:, :, :8, :8])
    with pytest.raises(InputError, match=r"shape \(0, 3\)"):
        build(model, tmp_path, shape=(0, 3), precision="fp32")
    with pytest.raises(InputError, match="training mode"):
        build(nn.Dropout(), tmp_path, shape=(1, 3), precision="fp32")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        build(model, tmp_path / "file", shape=(1, *IMAGE), precision="fp32")
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "none.onnx", precision="fp32", threads=1)
    with pytest.raises(InputError, match="threads must be at least 1; got 0"):
        load(built("onnxruntime", "fp32"), precision="fp32", threads=0)
    with pytest.raises(InputError, match="unknown runtime 'onnx'"):
        Worker("onnx", threads=1)


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime", "openvino"])
def test_a_truncated_file_is_an_input_error(runtime, built, tmp_path):
    whole = built(runtime, "fp32")
    short = tmp_path / whole.name
    short.write_bytes(whole.read_bytes()[:1000])
    with pytest.raises(InputError, match=f"cannot load .*{whole.name} with {runtime}"):
        RUNTIMES[runtime].load(short, precision="fp32", threads=1)


@pytest.mark.parametrize("runtime", list(RUNTIMES))
def test_a_failed_build_leaves_nothing_behind(runtime, model, tmp_path, monkeypatch):
    (tmp_path / "kept.txt").write_text("mine")

    def fail(*args: object, **kwargs: object) -> None:
        for name in ("half.onnx", "out/half.xml"):
            (next(tmp_path.glob(".foveate-*")) / name).write_text("half")
        raise RuntimeError("the disk caught fire")

    monkeypatch.setattr("foveate.runtimes._export.program", fail)
    with pytest.raises(RuntimeError, match="fire"):
        RUNTIMES[runtime].build(model, tmp_path, shape=(2, *IMAGE), precision="fp32")
    assert [f.name for f in tmp_path.iterdir()] == ["kept.txt"]


def test_a_converter_that_fails_is_heard(tmp_path):
    from foveate.runtimes.worker import convert

    (tmp_path / "graph.onnx").write_text("not a graph")
    with pytest.raises(RuntimeError, match="onnxruntime: "):
        convert("onnxruntime", tmp_path / "graph.onnx", tmp_path / "out.onnx", "fp32")


def test_precisions_are_the_shared_ones():
    assert all(set(cls.kinds) <= set(PRECISIONS) and issubclass(cls, Runtime) for cls in RUNTIMES.values())


def test_a_shared_graph_is_made_once_for_a_model_and_shape(model, stack, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("foveate.runtimes._export._shared", None)  # `built` shares too
    monkeypatch.setattr("foveate.runtimes._export.write_onnx", lambda m, shape, path: made.append((m, shape)))
    first, second = (model, (1, *IMAGE)), (stack, (1, None, 64))
    with sharing_graphs():
        for m, shape in (first, first, second, first):
            onnx_file(m, shape, tmp_path / "m.onnx")
    onnx_file(*first, tmp_path / "m.onnx")
    assert made == [first, second, first, first]


def test_registering_runtimes_imports_none_of_them():
    code = "import foveate.runtimes, sys; print([m for m in ('torch', 'onnxruntime', 'openvino') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_serving_needs_no_torch(runtime, built, images):
    """Loading and running holds the runtime alone in memory."""
    code = """
        import sys, numpy as np
        from foveate.runtimes import RUNTIMES
        run = RUNTIMES[sys.argv[1]].load(sys.argv[2], precision="fp32", threads=1)
        run(np.zeros((1, 3, 64, 64), np.float32))
        print([m for m in ("torch", "timm", "onnx", "nncf", "onnxruntime", "openvino") if m in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), runtime, str(built(runtime, "fp32"))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"['{runtime}']"


@pytest.mark.slow
def test_what_the_compiler_unpacks_is_gone_once_it_is_loaded(tmp_path, monkeypatch):
    """It would stay where temporary files go, weights and all, behind every process that is killed."""
    reason = RUNTIMES["compile"].why_not("fp32")
    if reason is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 8).eval()
    path = RUNTIMES["compile"].build(model, tmp_path / "out", shape=(1, 8), precision="fp32")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    runner = RUNTIMES["compile"].load(path, precision="fp32", threads=1)
    assert not list((tmp_path / "tmp").rglob("*.so")) and os.environ["TMPDIR"] == str(tmp_path / "tmp")
    x = np.ones((1, 8), np.float32)
    np.testing.assert_allclose(runner(x), model(torch.from_numpy(x)).detach().numpy(), rtol=1e-5)

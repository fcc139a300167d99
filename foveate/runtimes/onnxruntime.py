"""ONNX Runtime on the CPU: one `.onnx` file (weights beside it only past ONNX's limit of 2 GB)."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foveate.runtimes._base import RUNTIMES, Runner, Runtime, Shape, cpu_flags, missing
from foveate.runtimes.worker import convert

if TYPE_CHECKING:
    import onnx
    from torch import nn

LIMIT_BYTES = 2_000_000_000
VNNI = {"avx512_vnni", "avx_vnni", "asimddp"}


@RUNTIMES.register("onnxruntime")
class OnnxRuntime(Runtime):
    kinds = ("fp32", "int8")
    packages = ("onnxruntime",)
    suffix = ".onnx"
    code = False
    _pool: int | None = None  # threads of the pool that all sessions of this process share, if they do

    @classmethod
    def _why_not(cls, precision: str, device: str) -> str | None:
        return missing("onnxruntime")

    @classmethod
    def warm(cls) -> None:
        _onnxruntime()

    @classmethod
    def serve(cls, threads: int) -> None:
        """One pool for all sessions: the threads of a second would spin while the first is timed."""
        ort = _onnxruntime()
        ort.set_global_thread_pool_sizes(threads, 1)
        cls._pool = threads

    @classmethod
    def _build(
        cls, model: "nn.Module", target: Path, *, shape: Shape, precision: str, device: str,
        calibration: np.ndarray | None,
    ) -> None:  # fmt: skip
        from foveate.runtimes._export import onnx_file

        graph = onnx_file(model, shape, target.parent.parent / "graph.onnx")
        convert("onnxruntime", graph, target, precision, calibration, shape[0] or 1)

    @classmethod
    def convert(cls, graph: Path, target: Path, precision: str, calibration: np.ndarray | None, device: str) -> None:
        """`calibration` [batches batch ...]."""
        import onnx

        if precision == "int8":
            assert calibration is not None
            _quantise(graph, target, calibration)
            return
        model = onnx.load(graph)
        big = sum(len(t.raw_data) for t in model.graph.initializer) > LIMIT_BYTES
        onnx.save(model, target, save_as_external_data=big, location=f"{target.name}.data" if big else None)

    @classmethod
    def _load(cls, path: Path, *, precision: str, threads: int, device: str, shape: tuple[int, ...] | None) -> Runner:
        from foveate.runtimes._export import INPUT, OUTPUT, dim_name

        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        if cls._pool == threads:
            options.use_per_session_threads = False
        else:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        for i, n in enumerate(shape or ()):
            options.add_free_dimension_override_by_name(dim_name(i), n)
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def call(x: np.ndarray) -> np.ndarray:
            return session.run([OUTPUT], {INPUT: x})[0]  # type: ignore[return-value]

        takes = session.get_inputs()[0].shape
        return Runner(call, tuple(n if isinstance(n, int) else None for n in takes))


def _fed_by_activations(graph: "onnx.ModelProto") -> set[str]:
    """Products whose input comes out of an MLP's activation function (in a SwiGLU, the product with its gate).

    A few channels there are so large that one scale for all leaves the rest no digits. On the AugReg ViT-Tiny, over 100
    photographs: 9.8 dB and 87 % agreement with these products in int8, 24.1 dB and 100 % without. (NNCF, for OpenVINO,
    moves such channels' scale into the weights instead.)
    """
    made_by = {out: node.op_type for node in graph.graph.node for out in node.output}
    return {n.name for n in graph.graph.node if n.op_type == "MatMul" and made_by.get(n.input[0]) in ("Gelu", "Mul")}


def _onnxruntime():  # type: ignore[no-untyped-def]
    """ONNX Runtime, without what it would send home.

    From 1.29 on, importing it reports the process over HTTPS, and leaves an identifier among the temporary files. Who
    sets the variable decides; unset, it is off.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def _quantise(graph: Path, target: Path, calibration: np.ndarray) -> None:
    """Static, per channel; only products with constant weights. Ranges come from the user's own images."""
    import onnx

    ort = _onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from foveate.runtimes._export import INPUT, float_nodes

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(calibration)

        def get_next(self) -> dict[str, Any]:  # type: ignore[override]
            x = next(self.rest, None)
            return {} if x is None else {INPUT: x}

    wide = onnx.load(graph, load_external_data=False)
    marked = target.parent.with_name("quantised.onnx")
    quantize_static(
        graph,
        marked,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_exclude=sorted(float_nodes(wide) | _fed_by_activations(wide)),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=not cpu_flags() & VNNI,  # without VNNI, u8 x s8 sums saturate at 16 bits
        # A product's result goes on in float: the next operator (bias, softmax, GELU) is float anyway.
        extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
    )
    # ONNX Runtime would join product and bias to a float Gemm first, and then find no integer product to make (seen in
    # 1.31: 1.5 times the time of fp32). So its integer operators go into the file, which then loads like any other.
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # what any CPU takes
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(marked, options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"])

"""OpenVINO on the CPU: an `.xml` with its `.bin` beside it.

The CPU plug-in computes in bf16 by default where it can; here the precision is always the one asked for. int8 files run
the rest of the graph in bf16 where the CPU has it, as OpenVINO would.
"""

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foveate.runtimes._base import RUNTIMES, Runner, Runtime, Shape, fits, missing
from foveate.runtimes._shifts import shift_products, write_codes
from foveate.runtimes.worker import convert

if TYPE_CHECKING:
    from torch import nn


@RUNTIMES.register("openvino")
class OpenVino(Runtime):
    kinds = ("fp32", "bf16", "int8")
    packages = ("openvino",)
    suffix = ".xml"
    code = False

    @classmethod
    def warm(cls) -> None:
        _openvino()

    @classmethod
    def _why_not(cls, precision: str, device: str) -> str | None:
        if (reason := missing("openvino")) is not None:
            return reason
        if precision == "bf16" and "BF16" not in _capabilities():
            return f"OpenVINO finds no bf16 on this CPU; it finds {', '.join(_capabilities())}"
        if precision == "int8" and missing("nncf") is not None:
            return "nncf is not installed: pip install 'foveate[quant]'"
        return None

    @classmethod
    def beside_int8(cls, device: str) -> str:
        return "bf16" if "BF16" in _capabilities() else "fp32"

    @classmethod
    def _build(
        cls, model: "nn.Module", target: Path, *, shape: Shape, precision: str, device: str,
        calibration: np.ndarray | None,
    ) -> None:  # fmt: skip
        from foveate.runtimes._export import onnx_file

        graph = onnx_file(model, shape, target.parent.parent / "graph.onnx")
        convert("openvino", graph, target, precision, calibration, shape[0] or 1)

    @classmethod
    def convert(cls, graph: Path, target: Path, precision: str, calibration: np.ndarray | None, device: str) -> None:
        """`calibration` [batches batch ...]."""
        ov = _openvino()
        model = ov.Core().read_model(graph)
        shifts = shift_products(model)
        # Before NNCF sees them: it would move activations' scales into weights even of products that it has to leave.
        write_codes(model, shifts, whole=precision == "int8")
        if precision == "int8":
            assert calibration is not None
            model = _quantise(model, graph, calibration, set(shifts))
        ov.save_model(model, target, compress_to_fp16=False)

    @classmethod
    def _load(cls, path: Path, *, precision: str, threads: int, device: str, shape: tuple[int, ...] | None) -> Runner:
        ov = _openvino()
        core = ov.Core()
        model = core.read_model(path)
        takes = tuple(None if d.is_dynamic else d.get_length() for d in model.inputs[0].partial_shape)
        if shape is not None and None in takes and fits(shape, takes):
            model.reshape(ov.PartialShape(list(shape)))
        inside = cls.beside_int8(device) if precision == "int8" else precision
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": "bf16" if inside == "bf16" else "f32",
            },
        )
        request = compiled.create_infer_request()

        def call(x: np.ndarray) -> np.ndarray:
            return request.infer([x], share_inputs=True, share_outputs=False)[0]

        return Runner(call, takes)


def _openvino():  # type: ignore[no-untyped-def]
    """OpenVINO, without what it would send home.

    Importing it reports the import, in a process forked for that. Forked from one of ours, whose other thread waits for
    input, that process never ended: one of them was left behind by every model built or timed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it now fails, as if absent
    import openvino

    return openvino


@cache
def _capabilities() -> tuple[str, ...]:
    return tuple(_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _quantise(model, graph: Path, calibration: np.ndarray, shifts: set[str]):  # type: ignore[no-untyped-def]
    """NNCF's post-training quantisation, with its settings for transformers; not of `shifts`, which have their own."""
    import nncf
    import onnx

    from foveate.runtimes._export import float_nodes

    stay = float_nodes(onnx.load(graph, load_external_data=False)) | shifts
    names = [n.get_friendly_name() for n in model.get_ordered_ops() if n.get_friendly_name() in stay]
    return nncf.quantize(
        model,
        nncf.Dataset(list(calibration)),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(calibration),
        ignored_scope=nncf.IgnoredScope(names=names),
    )

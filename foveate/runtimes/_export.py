"""From a torch module to a graph: `torch.export`, and ONNX from it. Both the ONNX runtimes start from the same file."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.errors import NotAvailable
from foveate.runtimes._base import Shape, missing
from foveate.staging import scratch
from foveate.target import Target

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn
    from torch.export import ExportedProgram

INPUT, OUTPUT = "x", "y"
OPSET = 20  # has GELU as one operator; the attention operator of 23 does not take our masks in every runtime
HALVES = {"bf16": "bfloat16", "fp16": "float16"}  # torch's names
TALKERS = ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")


def program(model: "nn.Module", shape: Shape, precision: str = "fp32") -> "ExportedProgram":
    """The model's graph as torch.export sees it; bf16 or fp16 inside where asked, float32 at the borders always."""
    import torch

    model = getattr(model, "for_inference", lambda: model)()
    if precision in HALVES:
        model = _in_half(model, getattr(torch, HALVES[precision]))
    # An example no open size of which is 0 or 1: those two would be taken for constants.
    example = torch.zeros([7 + i if n is None else n for i, n in enumerate(shape)])
    open_dims = {i: torch.export.Dim(dim_name(i), min=2) for i, n in enumerate(shape) if n is None}
    with quiet(), torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes=(open_dims or None,), strict=False)


def moved(exported: "ExportedProgram", where: Target) -> "ExportedProgram":
    """The program with its weights and constants, and all that is made inside, on the GPU `where`."""
    from torch.export.passes import move_to_device_pass

    from foveate.runtimes._torch import gpu

    return move_to_device_pass(exported, gpu(where))


def onnx_file(model: "nn.Module", shape: Shape, path: Path) -> Path:
    """Write the model as ONNX, the weights in a file of their own beside it, so that memory holds no copy of them.

    Open dimensions are named d0, d1, ...; nodes keep the names of the modules they came from.
    """
    if _shared is not None:
        return _shared.get(model, shape)
    return write_onnx(model, shape, path)


@contextlib.contextmanager
def sharing_graphs() -> Iterator[None]:
    """Within it, builds in a row of one model export its ONNX graph once; do not change the model in between."""
    global _shared
    before = _shared
    with scratch() as folder:
        _shared = _Shared(folder)
        try:
            yield
        finally:
            _shared = before


class _Shared:
    """The last graph made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key: tuple[object, Shape] = None, ()

    def get(self, model: "nn.Module", shape: Shape) -> Path:
        path = self.folder / "graph.onnx"
        if self.key[0] is not model or self.key[1] != shape:
            self.key = None, ()
            for old in self.folder.iterdir():
                old.unlink()
            write_onnx(model, shape, path)
            self.key = model, shape
        return path


_shared: _Shared | None = None


def write_onnx(model: "nn.Module", shape: Shape, path: Path) -> Path:
    """As `onnx_file`, whatever is shared."""
    for package in ("onnx", "onnxscript"):
        if (reason := missing(package)) is not None:
            raise NotAvailable(f"cannot write ONNX: {reason}")
    import torch

    exported = program(model, shape)
    with quiet(), torch.no_grad():
        made = torch.onnx.export(
            exported, dynamo=True, opset_version=OPSET, input_names=[INPUT], output_names=[OUTPUT], verbose=False,
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
        )  # fmt: skip
        assert made is not None
        made.save(path, external_data=True)
    return path


def _attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """softmax(q k^T scale + mask) v, as operators that runtimes know how to fuse.

    The exporter's own translation scales both sides and transposes the keys on a reshaped copy, which OpenVINO's fused
    attention does not take in: this one made a dense ViT-Tiny 3 to 4 % faster there and 2 % in ONNX Runtime.
    """
    from onnxscript import opset20
    from onnxscript.function_libs.torch_lib.ops import nn as torchlib

    if is_causal or enable_gqa or (attn_mask is not None and attn_mask.dtype != query.dtype):
        return torchlib.aten_scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
        )
    op: Any = opset20  # its stubs take every operator for a failing one
    by = float(query.shape[-1] ** -0.5 if scale is None else scale)
    logits = op.MatMul(op.Mul(query, by), op.Transpose(key, perm=[0, 1, 3, 2]))
    return op.MatMul(op.Softmax(logits if attn_mask is None else op.Add(logits, attn_mask), axis=-1), value)


def dim_name(i: int) -> str:
    return f"d{i}"


def input_shape(exported: "ExportedProgram") -> Shape:
    """The shape of the one input; None where it is open."""
    (name,) = exported.graph_signature.user_inputs
    node = next(n for n in exported.graph.nodes if n.name == name)
    return tuple(n if isinstance(n, int) else None for n in node.meta["val"].shape)


def float_nodes(graph: "onnx.ModelProto") -> set[str]:
    """Names of the nodes that must stay float when the rest becomes int8.

    Those are all nodes of a reducer (an adapter keeps them in a ModuleDict called `reducers`), those of a `router`, by
    whose small differences tokens go one way or the other, and every product of two activations: attention's own, its
    scores, the one-hot products that merge tokens.
    """
    weights = {t.name for t in graph.graph.initializer}
    names = set()
    for node in graph.graph.node:
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "")
        product = node.op_type == "MatMul" and not weights & set(node.input)
        if "reducers." in scopes or "router" in scopes or product:
            names.add(node.name)
    return names


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters print, warn and log what a user can do nothing about; only their errors come through."""
    loggers = [logging.getLogger(name) for name in TALKERS]
    levels = [l.level for l in loggers]
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            for l in loggers:
                l.setLevel(logging.ERROR)
            yield
        finally:
            for l, level in zip(loggers, levels, strict=True):
                l.setLevel(level)


def _in_half(model: "nn.Module", dtype: "torch.dtype") -> "nn.Module":
    from torch import Tensor, nn

    class InHalf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = copy.deepcopy(model).to(dtype)

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x.to(dtype)).float()

    return InHalf().eval()

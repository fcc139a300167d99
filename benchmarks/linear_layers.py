"""Linear layers of a ViT by every arithmetic: python -m benchmarks.linear_layers    (quiet machine, 15 min)

The first layer of an MLP of ViT-Ti, S and B, on 1 to 1,576 tokens (eight images), random weights. Builds of one
runtime are timed by turns in one process. Shift layers as they are deployed: 4-bit codes in the file, floats or whole
numbers when loaded. The literal one shifts and adds integers, by a kernel that torch compiles. MatMulNBits holds
uniform weights of as many bits: it says what such a layer would take where its codes fit.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import Sheet, say
from foveate.errors import NotAvailable
from foveate.hardware.device import default_threads
from foveate.hardware.peaks import best_of, measure_peaks
from foveate.hardware.timer import speedup
from foveate.linears import ShiftLinear, for_inference
from foveate.runtimes import RUNTIMES, Worker

SIZES = {"Ti": 192, "S": 384, "B": 768}
ROWS = (1, 16, 64, 197, 1576)
OPENVINO = {  # kind: precision of the build, of a shift layer?
    "fp32": ("fp32", False), "bf16": ("bf16", False), "int8": ("int8", False),
    "shift, floats": ("bf16", True), "shift, whole numbers": ("int8", True),
}  # fmt: skip
BITS = (8, 4, 2)  # of MatMulNBits
BLOCK = 32
LITERAL = "shift, literally"
Built = dict[str, tuple[Path, str]]  # kind: file, precision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--fresh", action="store_true", help="measure all rows anew")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    asked = parser.parse_args()
    sheet = Sheet("linear_layers", fresh=asked.fresh, threads=default_threads())
    sheet.row("peaks", peaks)
    for size in asked.sizes:
        for rows in ROWS:
            measure(sheet, size, rows)


def peaks() -> dict[str, Any]:
    """GMAC/s of large products: torch's, for int8 with sums of 32 bits."""
    found = {r.tags["precision"]: r.value / 2 for r in measure_peaks() if "precision" in r.tags}
    product: Any = getattr(torch, "_int_mm")  # noqa: B009  (not exported)
    a, b = (torch.randint(-127, 128, (2048, 2048), dtype=torch.int8) for _ in range(2))
    return {"gmac": found | {"int8": 2048**3 / best_of(lambda: product(a, b), 0.5)[0] / 1e9}}


def measure(sheet: Sheet, size: str, rows: int) -> None:
    """All kinds of one shape, a row each."""
    width = SIZES[size]
    key = lambda kind: f"{size} {rows} {kind}"
    runtimes = {"openvino": list(OPENVINO), "onnxruntime": ["onnxruntime fp32", "onnxruntime int8", *map(nbits, BITS)]}
    lot = np.random.default_rng(0)
    x = lot.standard_normal((1, rows, width), dtype=np.float32)
    torch.manual_seed(0)
    layer = nn.Linear(width, 4 * width)
    with tempfile.TemporaryDirectory() as tmp:
        for runtime, kinds in runtimes.items():
            if all(key(kind) in sheet.value["rows"] for kind in kinds):
                continue
            with Worker(runtime, threads=default_threads()) as worker:
                built = (openvino if runtime == "openvino" else onnxruntime)(layer, x, Path(tmp) / runtime)
                for kind, (file, precision) in built.items():
                    worker.load(kind, file, precision=precision)
                order = list(built)
                first = np.median(worker.time(order, [x] * len(order), rounds=5, warmup=3, seed=0), axis=1).sum()
                rounds = int(np.clip(3e3 / first, 20, 400))
                ms = worker.time(order, [x] * len(order), rounds=rounds, warmup=1, seed=1)
            base = "int8" if runtime == "openvino" else "onnxruntime int8"
            for kind, own in zip(order, ms, strict=True):
                ratio = speedup(own, ms[order.index(base)], level=0.95)
                row = figures(size, rows, kind, own, built[kind][0]) | {
                    "over_int8": ratio.value, "low": ratio.low, "high": ratio.high,
                }  # fmt: skip
                sheet.row(key(kind), lambda row=row: row)
    sheet.row(key(LITERAL), lambda: literal(size, rows, layer, x))


def figures(size: str, rows: int, kind: str, ms: np.ndarray, file: Path | None) -> dict[str, Any]:
    width, middle = SIZES[size], float(np.median(ms))
    weights = None if file is None else file.with_suffix(".bin") if file.suffix == ".xml" else file
    return {
        "size": size, "rows": rows, "kind": kind, "ms": middle, "rounds": len(ms),
        "gmac": rows * 4 * width**2 / middle / 1e6,
        "bytes": None if weights is None else weights.stat().st_size,
    }  # fmt: skip


def openvino(layer: nn.Linear, x: np.ndarray, folder: Path) -> Built:
    found, runtime = dict[str, tuple[Path, str]](), RUNTIMES["openvino"]
    for kind, (precision, shifts) in OPENVINO.items():
        if reason := runtime.why_not(precision):
            say(f"openvino {precision}: {reason}")
            continue
        model = nn.Sequential(for_inference(ShiftLinear(layer)) if shifts else layer).eval()
        file = runtime.build(
            model, folder / kind.replace(" ", "-"), shape=x.shape, precision=precision,
            calibration=np.repeat(x, 4, 0) if precision == "int8" else None,
        )  # fmt: skip
        found[kind] = file, precision
    return found


def onnxruntime(layer: nn.Linear, x: np.ndarray, folder: Path) -> Built:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    runtime, model = RUNTIMES["onnxruntime"], nn.Sequential(layer).eval()
    found = dict[str, tuple[Path, str]]()
    for precision in ("fp32", "int8"):
        file = runtime.build(
            model, folder / precision, shape=x.shape, precision=precision,
            calibration=np.repeat(x, 4, 0) if precision == "int8" else None,
        )  # fmt: skip
        found[f"onnxruntime {precision}"] = file, precision
    for bits in BITS:
        import onnx

        try:
            made = MatMulNBitsQuantizer(
                onnx.load(found["onnxruntime fp32"][0]), bits=bits, block_size=BLOCK, is_symmetric=True,
                accuracy_level=4,
            )  # fmt: skip
            made.process()
            quantised: Any = made.model
            file = folder / f"{bits}-bits.onnx"
            quantised.save_model_to_file(str(file))
            with Worker("onnxruntime", threads=1) as worker:
                worker.load("trial", file, precision="fp32")
        except (ValueError, RuntimeError, NotAvailable, AssertionError) as e:
            say(f"MatMulNBits of {bits} bits: {str(e).splitlines()[0][:200]}")
            continue
        found[nbits(bits)] = file, "fp32"
    return found


def nbits(bits: int) -> str:
    return f"MatMulNBits {bits}"


def literal(size: str, rows: int, layer: nn.Linear, x: np.ndarray) -> dict[str, Any]:
    """Integers shifted and added, compiled by torch."""
    codes = ShiftLinear(layer).codes()
    value = codes.format.table[codes.codes.long()]
    shift = torch.where(value == 0, 0, -value.abs().clamp(min=2.0**-6).log2()).int()
    sign = value.sign().int()
    whole = torch.from_numpy((x[0] * 2**16).astype(np.int32))
    run = cast(Any, torch.compile(shift_and_add, fullgraph=True))
    wanted = (whole.double() @ value.double().T).numpy()
    found = run(whole, shift, sign).numpy()
    assert np.abs(found - wanted).max() <= SIZES[size], "a shift rounds down by at most one a weight"
    seconds = [best_of(lambda: run(whole, shift, sign), 0.3)[0] for _ in range(5)]
    return figures(size, rows, LITERAL, np.array(seconds) * 1e3, None)


def shift_and_add(x: Tensor, shift: Tensor, sign: Tensor) -> Tensor:
    """x [m i] int32, shift and sign [o i] -> [m o]."""
    return ((x[:, None] >> shift) * sign).sum(-1)


if __name__ == "__main__":
    main()

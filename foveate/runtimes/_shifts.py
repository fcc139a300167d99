"""Weights that are signs and powers of two, in an OpenVINO file: 4-bit codes, a table, a scale a row.

They reach a runtime as float weights and are known by their values: every row a scale times 0 or +-2^-p, p below 7
(`pot4` of foveate.linears). Nothing is rounded: the graph's answers stay what they were.

In the file such a weight takes half the bytes of int8. When it is loaded, OpenVINO folds codes and table into what
it computes with: floats, or in an int8 build whole numbers (1 to 64, and a scale), which are exact too and go
through its integer kernels; activations are then quantised as they come, by groups.
"""

from typing import Any, NamedTuple

import numpy as np

OCTAVES = 7
TABLE = np.array(
    [*(-(2.0**-p) for p in range(OCTAVES)), 0, *(2.0**-p for p in reversed(range(OCTAVES))), 0], np.float32
)
ZERO = OCTAVES  # its place; the sixteenth is never used
UNIT = 2.0 ** (1 - OCTAVES)
LEAST = 256  # weights; of fewer, a table gains nothing


class Coded(NamedTuple):
    codes: np.ndarray  # [o i] uint8, places in TABLE
    scale: np.ndarray  # [o 1] float32


def coded(weight: np.ndarray) -> Coded | None:
    """A weight [o i] as codes, exactly; None where it is none of shifts.

    >>> found = coded(np.array([[0.75, -0.375, 0.0]], np.float32))
    >>> TABLE[found.codes] * found.scale
    array([[ 0.75 , -0.375,  0.   ]], dtype=float32)
    """
    largest = np.abs(weight).max(1, keepdims=True)
    scale = np.where(largest > 0, largest, 1).astype(np.float32)
    mantissa, exponent = np.frexp(weight / scale)  # of 2^-p: 1/2 and 1 - p
    some, octave = mantissa != 0, 1 - exponent
    if not np.isfinite(scale).all() or (some & ((np.abs(mantissa) != 0.5) | (octave >= OCTAVES))).any():
        return None
    codes = np.where(some, np.where(mantissa < 0, octave, len(TABLE) - 2 - octave), ZERO).astype(np.uint8)
    # Below the smallest normal number a quotient is rounded, and might pass for what it is not.
    return Coded(codes, scale) if np.array_equal(TABLE[codes] * scale, weight) else None


def shift_products(model: Any) -> dict[str, Coded]:
    """The matrix products of an OpenVINO model whose second factor is such a weight, by their friendly names."""
    found = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        source = node.input_value(1).get_node()
        if source.get_type_name() != "Constant" or len(source.get_output_shape(0)) != 2:
            continue
        weight = np.array(source.get_data(dtype=np.float32))
        codes = coded(weight if _transposes(node) else weight.T) if weight.size >= LEAST else None
        if codes is not None:
            found[node.get_friendly_name()] = codes
    return found


def write_codes(model: Any, products: dict[str, Coded], *, whole: bool) -> None:
    """Put codes in the place of these weights. `whole`: as whole numbers and a scale, for integer kernels."""
    import openvino as ov
    from openvino import opset15 as op

    for node in model.get_ordered_ops():
        if (found := products.get(node.get_friendly_name())) is None:
            continue
        codes = op.convert(op.constant(found.codes, dtype=ov.Type.u4), ov.Type.i32)
        table = (TABLE / UNIT).astype(np.int8) if whole else TABLE
        values = op.gather(op.constant(table), codes, op.constant(np.int32(0)))
        if whole:
            values = op.convert(values, ov.Type.f32)
        weight = op.multiply(values, op.constant(found.scale * np.float32(UNIT if whole else 1)))
        made = op.matmul(node.input_value(0), weight, node.get_attributes()["transpose_a"], True)
        made.set_friendly_name(node.get_friendly_name())
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(made.output(0))


def _transposes(node: Any) -> bool:
    return bool(node.get_attributes()["transpose_b"])

"""Energy and cycles of a layer on a modelled accelerator, by its tiling. No device is asked.

The model is that of ShiftAddViT's released code (GATECH-EIC/ShiftAddViT at 47671cf), after Eyeriss (Chen et al., ISCA
2016): 16 x 12 processing elements at 250 MHz, a buffer of 64 Ki words, energies of 45 nm (Horowitz, ISSCC 2014). A
layer is cut into tiles; of all cuts that fit, the one with the best sum of relative energy and relative time counts.

    energy = operations + words moved * (DRAM 200, buffer 6, network 2, partial sums 1, registers 1 and 2 for weights),
    on-chip levels times 3.7, each word as wide as the operands

Two ways of charging what is moved. `published`: layers of additions pay for no DRAM, no buffer and no network for
their inputs, and shift layers move 10 bits instead of 32, so most of what they save is assumed data movement.
`complete`: every layer moves what it needs, shift layers their weights at the width they are stored in.

Numbers are of a model, and only for comparing with its own: nothing here is a measured energy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputError

Operation = Literal["multiply", "shift", "add"]
Movement = Literal["published", "complete"]

# Picojoules of one operation, 45 nm: by bits, what a product or a shift takes, and what adding it up takes.
PRODUCT = {32: 3.7, 16: 1.1, 8: 0.2}
ADDITION = {32: 0.9, 16: 0.4, 8: 0.03}
SHIFT = {32: 0.13, 16: 0.057, 8: 0.024}
SHIFT_BITS = 10  # of an operand of a shift layer, on the released code's average of 16 and 5
STORED_SHIFT_BITS = 5

DRAM, BUFFER, NETWORK, SUMS, REGISTERS, WEIGHT_REGISTERS = 200.0, 6.0, 2.0, 1.0, 1.0, 2.0
ON_CHIP = 3.7
ELEMENTS, ROW_WORDS, ROW_WEIGHTS, BUFFER_WORDS, KERNELS = 192, 12, 960, 65536, 16
CLOCK_HZ = 250e6


@dataclass(frozen=True)
class Layer:
    """A matrix product: rows x inputs times inputs x outputs, `times` of them.

    Args:
        operation: what takes the place of a product.
        bits: of the operands, 32, 16 or 8.
    """

    name: str
    rows: int
    inputs: int
    outputs: int
    times: int = 1
    operation: Operation = "multiply"
    bits: int = 32

    def __post_init__(self) -> None:
        if min(self.rows, self.inputs, self.outputs, self.times) < 1:
            shape = f"{self.rows}x{self.inputs}x{self.outputs}, {self.times} times"
            raise InputError(f"layer {self.name}: {shape}; allowed: 1 or more of each")
        if self.bits not in PRODUCT:
            raise InputError(f"layer {self.name}: {self.bits} bits; allowed: {', '.join(map(str, PRODUCT))}")

    @property
    def operations(self) -> int:
        return self.times * self.rows * self.inputs * self.outputs


@dataclass(frozen=True)
class Cost:
    """Of a layer: microjoules of operations and of each level of memory, and milliseconds."""

    operations_uj: float
    dram_uj: float
    buffer_uj: float
    network_uj: float
    registers_uj: float
    ms: float

    @property
    def energy_uj(self) -> float:
        return self.operations_uj + self.dram_uj + self.buffer_uj + self.network_uj + self.registers_uj


def operation_pj(layer: Layer) -> float:
    """One multiply-accumulate, shift-accumulate or addition."""
    before = {"multiply": PRODUCT, "shift": SHIFT}.get(layer.operation)
    return ADDITION[layer.bits] + (0.0 if before is None else before[layer.bits])


def counted_mj(products: float, additions: float, bits: int = 32) -> float:
    """Millijoules of so many operations alone, memory left out: how EcoFormer (NeurIPS 2022) counts its models."""
    return (PRODUCT[bits] * products + ADDITION[bits] * additions) * 1e-9


def cost(layer: Layer, movement: Movement = "complete") -> Cost:
    """
    Raises:
        InputError: a layer that no tiling fits.
    """
    if movement not in ("published", "complete"):
        raise InputError(f"movement {movement!r}; allowed: published, complete")
    energy, cycles = _tilings(layer.rows, layer.inputs, layer.outputs, layer.bits)
    widths = _widths(layer, movement)
    parts = {level: (energy[level] * widths[level]).sum(0) for level in energy}
    per_cycle = SHIFT_BITS / 32 if layer.operation == "shift" and movement == "published" else 1.0
    time = cycles * per_cycle / CLOCK_HZ * 1e3
    total = np.sum(list(parts.values()), axis=0)
    best = int(np.argmin((total - total.min()) / total.max() + (time - time.min()) / time.max()))
    uj = {level: float(values[best]) * layer.times * 1e-6 for level, values in parts.items()}
    return Cost(
        operations_uj=layer.operations * operation_pj(layer) * 1e-6, dram_uj=uj["dram"], buffer_uj=uj["buffer"],
        network_uj=uj["network"], registers_uj=uj["registers"], ms=float(time[best]) * layer.times,
    )  # fmt: skip


def _widths(layer: Layer, movement: Movement) -> dict[str, NDArray[np.float64]]:
    """What each operand (inputs, weights, outputs) costs a word at each level: its width over 16 bits, or nothing."""
    wide = layer.bits / 16
    inputs = weights = outputs = wide
    if layer.operation == "shift":
        if movement == "published":
            inputs = weights = outputs = SHIFT_BITS / 16
        else:
            weights = STORED_SHIFT_BITS / 16
    every = np.array([inputs, weights, outputs])[:, None]
    free = layer.operation == "add" and movement == "published"
    nothing = np.zeros_like(every)
    return {
        "dram": nothing if free else every, "buffer": nothing if free else every,
        "network": np.array([0.0, 0.0, outputs])[:, None] if free else every, "registers": every,
    }  # fmt: skip


@cache
def _tilings(
    rows: int, inputs: int, outputs: int, bits: int
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Of every cut that fits: picojoules at a width of 16 bits by level and operand [3 t], and cycles [t]."""
    relaxed = {32: (1, 1), 16: (1, 1), 8: (2, 4)}[bits]
    n = np.array(factors(rows, 2))  # N0 N3
    m = np.array(factors(outputs, 4))  # M0 M1 M2 M3
    c = np.array(factors(inputs, 3))  # C0 C1 C2
    i, j, k = (axis.ravel() for axis in np.meshgrid(range(len(n)), range(len(m)), range(len(c)), indexing="ij"))
    n0, n3 = n[i].T
    m0, m1, m2, m3 = m[j].T
    c0, c1, c2 = c[k].T
    fits = (
        (m0 <= KERNELS) & (m1 * c1 < ELEMENTS * relaxed[1]) & (c0 < ROW_WORDS * relaxed[0])
        & (m0 * c0 < ROW_WEIGHTS * relaxed[0])
        & (n0 * c1 * c0 + n0 * m2 * m1 * m0 < BUFFER_WORDS * relaxed[0])
    )  # fmt: skip
    if not fits.any():
        raise InputError(f"no tiling of {rows}x{inputs}x{outputs} fits the accelerator")
    n0, n3, m0, m1, m2, m3, c0, c1, c2 = (a[fits].astype(np.float64) for a in (n0, n3, m0, m1, m2, m3, c0, c1, c2))
    one, ifmap, wgt, ofmap = np.ones_like(n0), rows * inputs, inputs * outputs, rows * outputs
    energy = {
        "dram": DRAM * np.stack([m3 * ifmap, n3 * wgt, one * ofmap]),
        "buffer": ON_CHIP * BUFFER * np.stack([m3 * m2 * ifmap, 0 * one, np.maximum(2 * (c2 - 1), 1) * ofmap]),
        "network": ON_CHIP * np.stack(
            [NETWORK * m3 * m2 * m1 * ifmap, NETWORK * n3 * wgt, SUMS * np.maximum(c2 * (c1 - 1), 1) * ofmap]
        ),
        "registers": ON_CHIP * np.stack([
            REGISTERS * m3 * m2 * m1 * m0 * ifmap, WEIGHT_REGISTERS * n3 * n0 * wgt,
            REGISTERS * np.maximum(2 * c2 * c1 * (c0 - 1), 1) * ofmap,
        ]),
    }  # fmt: skip
    return energy, n3 * n0 * m3 * m2 * m0 * c2 * c0


@cache
def factors(number: int, parts: int) -> tuple[tuple[int, ...], ...]:
    """Every way to write a number as a product of so many factors, in order.

    >>> factors(4, 2)
    ((1, 4), (2, 2), (4, 1))
    """
    if parts == 1:
        return ((number,),)
    found = []
    for first in range(1, number + 1):
        if number % first == 0:
            found += [(first, *rest) for rest in factors(number // first, parts - 1)]
    return tuple(found)


def total(layers: Sequence[Layer], movement: Movement = "complete") -> Cost:
    """Of all layers, one after another."""
    each = [cost(layer, movement) for layer in layers]
    sums = [math.fsum(getattr(c, name) for c in each) for name in Cost.__dataclass_fields__]
    return Cost(*sums)

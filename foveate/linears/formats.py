"""Weights of a linear layer as codes of a small table: a sign and a power of two, or a sum of two.

    weight[o, i] = table[codes[o, i]] * scale[o]

A format is its table, and whether rows have a scale. All of them here are *shift* formats: every value of a table is a
sign times one power of two, or times the sum of two, so that a product is a shift, or two and an addition. What runs
it need not shift: a table of 16 fits a runtime's codebook, and `integers` says which 8-bit weights mean the same.

Shape letters: o outputs, i inputs, k values of a table.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.errors import InputError, one_of

SCALES = tuple(n / 40 for n in range(10, 45))  # of a row's largest weight: where the table's largest value may lie


@dataclass(frozen=True, eq=False)
class Codes:
    """A weight as codes.

    Args:
        format: whose table it is.
        codes: [o i] uint8, places in the table.
        scale: [o] float32, a factor a row; ones in a format without.
    """

    format: "Format"
    codes: Tensor
    scale: Tensor

    def weight(self) -> Tensor:
        """What the codes mean, [o i] float32, exactly."""
        return self.format.table.to(self.codes.device)[self.codes.long()] * self.scale[:, None]

    def integers(self) -> tuple[Tensor, Tensor] | None:
        """int8 weights [o i] and a scale [o] float32 whose product is `weight()`; None where eight bits don't do."""
        if self.format.unit is None:
            return None
        whole = (self.format.table / self.format.unit).round().to(torch.int8).to(self.codes.device)
        return whole[self.codes.long()], self.scale * self.format.unit

    def packed(self) -> Tensor:
        """The codes without gaps, `format.bits` each, the low bits first: uint8 [ceil(o i bits / 8)]."""
        bits = self.format.bits
        flat = self.codes.flatten().int()
        spread = (flat[:, None] >> torch.arange(bits, device=flat.device)) & 1
        stream = torch.nn.functional.pad(spread.flatten(), (0, -spread.numel() % 8)).reshape(-1, 8)
        return (stream << torch.arange(8, device=flat.device)).sum(1).to(torch.uint8)

    @property
    def bytes(self) -> int:
        """What is stored: packed codes, and scales where rows have them. The table is the format's."""
        return math.ceil(self.codes.numel() * self.format.bits / 8) + (4 * len(self.scale) if self.format.scaled else 0)


def unpacked(packed: Tensor, format: "Format", shape: tuple[int, int]) -> Tensor:
    """The codes [o i] that `Codes.packed` packed.

    Raises:
        InputError: too few bytes for the shape, or a code that the table has not.
    """
    bits, count = format.bits, shape[0] * shape[1]
    if packed.numel() != math.ceil(count * bits / 8):
        raise InputError(f"{packed.numel()} bytes of codes for {shape[0]}x{shape[1]} weights of {bits} bits")
    stream = (packed.int()[:, None] >> torch.arange(8, device=packed.device)) & 1
    spread = stream.flatten()[: count * bits].reshape(count, bits)
    codes = (spread << torch.arange(bits, device=packed.device)).sum(1)
    if count and int(codes.max()) >= len(format.table):
        raise InputError(f"code {int(codes.max())}; {format.name} has {len(format.table)}")
    return codes.to(torch.uint8).reshape(shape)


@dataclass(frozen=True, eq=False)
class Format:
    """A table of values, ascending.

    Args:
        name: as users call it.
        table: [k] float32.
        scaled: have rows a scale?
        unit: what every value of the table is a whole multiple of, up to 127 times; None where there is no such.
    """

    name: str
    table: Tensor
    scaled: bool
    unit: float | None

    LEAST: ClassVar[float] = torch.finfo(torch.float32).tiny

    @property
    def bits(self) -> int:
        return math.ceil(math.log2(len(self.table)))

    def encode(self, weight: Tensor) -> Codes:
        """The nearest value of the table for every weight [o i]; of two equally near the smaller one in magnitude.

        With scales, a row's is the one of 35 that leaves the least squared error. A row of zeros gets the scale 1.
        Without, what lies above the table's largest value becomes that value.

        Raises:
            InputError: another shape, or a weight that is no finite number.
        """
        if weight.ndim != 2:
            raise InputError(f"a weight of shape {tuple(weight.shape)}; a linear layer's is [outputs, inputs]")
        bad = ~weight.isfinite()
        if bool(bad.any()):
            o, i = bad.nonzero()[0].tolist()
            raise InputError(
                f"weight [{o}, {i}] is {float(weight[o, i])}; {int(bad.sum())} of them are no finite number"
            )
        weight = weight.detach().float()
        scale = self.scales(weight) if self.scaled else weight.new_ones(len(weight))
        return Codes(self, self.nearest(weight / scale[:, None]), scale)

    def nearest(self, values: Tensor) -> Tensor:
        """Places in the table: [...] -> [...] uint8."""
        table = self.table.to(values.device)
        edges = (table[1:] + table[:-1]) / 2
        # An edge itself goes towards zero: down above it, up below.
        down, up = torch.bucketize(values, edges, right=False), torch.bucketize(values, edges, right=True)
        return torch.where(values >= 0, down, up).to(torch.uint8)

    def scales(self, weight: Tensor) -> Tensor:
        """A factor for every row of `weight` [o i]: [o] float32."""
        largest = weight.abs().amax(1) / float(self.table[-1])
        best, least = torch.ones_like(largest), torch.full_like(largest, torch.inf)
        table = self.table.to(weight.device)
        for share in SCALES:
            scale = (share * largest).clamp(min=self.LEAST)
            error = (table[self.nearest(weight / scale[:, None]).long()] * scale[:, None] - weight).square().sum(1)
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
        return torch.where(largest > 0, best, 1.0)


def _signed(magnitudes: list[float]) -> Tensor:
    found = sorted({0.0, *magnitudes, *(-m for m in magnitudes)})
    return torch.tensor(found, dtype=torch.float32)


def _two_terms() -> list[float]:
    first, second = (0.0, 1.0, 2.0**-2, 2.0**-4), (0.0, 2.0**-1, 2.0**-3, 2.0**-5)
    return [a + b for a in first for b in second]


FORMATS = {
    f.name: f
    for f in (
        # DeepShift (Elhoushi et al., CVPR-W 2021): a sign and one of 15 exponents, 5 bits, no scale.
        Format("ps5", _signed([2.0**-p for p in range(15)]), scaled=False, unit=None),
        # A sign and one of seven exponents, 4 bits, with a scale a row: what a codebook of 16 holds.
        Format("pot4", _signed([2.0**-p for p in range(7)]), scaled=True, unit=2.0**-6),
        # Additive powers of two (Li et al., ICLR 2020) of two terms with two bits each, 5 bits with the sign.
        Format("apot2", _signed(_two_terms()), scaled=True, unit=2.0**-5),
    )
}


def format_of(name: str) -> Format:
    """
    Raises:
        InputError: an unknown name.
    """
    if name not in FORMATS:
        raise one_of("format", name, FORMATS)
    return FORMATS[name]

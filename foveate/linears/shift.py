"""A linear layer of shifts: every weight a sign and a power of two, or a sum of two, trained through its codes.

DeepShift (Elhoushi et al., CVPR-W 2021), as ShiftAddViT uses it (You et al., NeurIPS 2023), and two formats with a
scale a row. `Weights` keeps a real weight and rounds it in every forward pass, the gradient passing the rounding
unchanged (DeepShift-Q); `SignsAndShifts` learns a sign and an exponent for every weight (DeepShift-PS, format `ps5`).

Training multiplies by the rounded weights: a literal shift is slower than a multiplication on CPUs and GPUs. What a
layer *is* stays exact: `reference` computes it by additions of shifted activations alone.
"""

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from foveate.errors import InputError
from foveate.linears._base import LINEARS, LinearVariant
from foveate.linears.formats import Codes, Format, format_of

LEAST = -14  # exponents of ps5 are LEAST .. 0


class _Round(torch.autograd.Function):
    """The nearest value of a table. The gradient passes within its range and, with `clips`, stops outside of it.

    It has to where there is a scale: what is out of range asks for a larger scale, not for a larger weight.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, values: Tensor, table: Tensor, codes: Tensor, clips: bool
    ) -> Tensor:
        if clips:
            ctx.save_for_backward(values.abs() <= table[-1])
        return table[codes.long()]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        inside = ctx.saved_tensors  # type: ignore[attr-defined]
        return grads[0] * inside[0] if inside else grads[0], None, None, None


class _PowersOfTwo(torch.autograd.Function):
    """sign * 2^exponent. By the exponent the derivative is that of the power; by the sign it is 1, as DeepShift's."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, sign: Tensor, shift: Tensor) -> Tensor:
        value = sign.round().sign() * torch.exp2(shift.clamp(LEAST, 0).round())
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (value,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grads[0], grads[0] * value * math.log(2)


def encoded(weight: Tensor, format: Format) -> Codes:
    """As `Format.encode`; of a weight without memory, in a sketch of a model, codes without memory."""
    if not weight.is_meta:
        return format.encode(weight)
    return Codes(format, torch.empty_like(weight, dtype=torch.uint8), weight.new_empty(len(weight)))


class Weights(nn.Module):
    """A real weight [o i], rounded to a format, and a scale a row where the format has one.

    The scale is learnt as LSQ's (Esser et al., ICLR 2020), by its logarithm, so that it stays above 0.
    """

    def __init__(self, weight: Tensor, format: Format) -> None:
        super().__init__()
        found = encoded(weight, format)
        self.format = format
        self.weight = nn.Parameter(weight.detach().clone())
        self.log_scale = nn.Parameter(found.scale.log().to(weight.dtype)) if format.scaled else None
        self.register_buffer("table", format.table.to(weight), persistent=False)

    @property
    def scale(self) -> Tensor | None:
        """[o], None in a format without."""
        return None if self.log_scale is None else self.log_scale.exp()

    def forward(self) -> Tensor:
        scale = self.scale
        if scale is None:
            return _Round.apply(self.weight, self.table, self.format.nearest(self.weight), False)  # type: ignore[no-any-return]
        values = self.weight / scale[:, None]
        rounded = _Round.apply(values, self.table, self.format.nearest(values), True)
        return rounded * scale[:, None]  # type: ignore[no-any-return]

    @torch.no_grad()
    def codes(self) -> Codes:
        scale = self.weight.new_ones(len(self.weight)) if self.scale is None else self.scale
        return Codes(self.format, self.format.nearest(self.weight / scale[:, None]), scale.float())


class SignsAndShifts(nn.Module):
    """A sign and an exponent [o i] for every weight, both learnt. A sign that rounds to 0 makes a weight of 0."""

    def __init__(self, weight: Tensor, format: Format) -> None:
        super().__init__()
        if format.name != "ps5":
            raise InputError(f"signs and shifts are learnt in format ps5, not {format.name}")
        found = encoded(weight, format).weight()
        self.format = format
        self.sign = nn.Parameter(found.sign().to(weight.dtype))
        self.shift = nn.Parameter(found.abs().clamp(min=2.0**LEAST).log2().to(weight.dtype))

    def forward(self) -> Tensor:
        return _PowersOfTwo.apply(self.sign, self.shift)  # type: ignore[no-any-return]

    @torch.no_grad()
    def codes(self) -> Codes:
        return self.format.encode(self.forward())


@final
@LINEARS.register("shift")
class ShiftLinear(LinearVariant):
    """Weights of a sign and a power of two, or the sum of two: x [... i] -> [... o], the bias as it was.

    Args:
        layer: the linear layer whose weights it starts from.
        format: one of `foveate.linears.FORMATS`.
        learn: "weights", or "shifts" for a sign and an exponent a weight (ps5).

    Raises:
        InputError: an unknown format, a weight that is no finite number.
    """

    def __init__(self, layer: nn.Linear, *, format: str = "pot4", learn: str = "weights") -> None:
        super().__init__()
        kinds = {"weights": Weights, "shifts": SignsAndShifts}
        if learn not in kinds:
            raise InputError(f"learn {learn!r}; allowed: {', '.join(kinds)}")
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weights = kinds[learn](layer.weight.detach(), format_of(format))
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weights().to(x.dtype), self.bias)

    @torch.no_grad()
    def reference(self, x: Tensor) -> Tensor:
        return by_shifts(x, self.codes(), self.bias)

    def codes(self) -> Codes:
        return self.weights.codes()

    def for_inference(self) -> nn.Linear:
        """A plain linear layer with the rounded weights: the same answers, whatever runs them."""
        found = self.codes()
        like = next(self.weights.parameters())
        layer = nn.Linear(
            self.in_features, self.out_features, bias=self.bias is not None, device=like.device, dtype=like.dtype
        )
        with torch.no_grad():
            layer.weight.copy_(found.weight())
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        return layer

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, format={self.weights.format.name}"


def by_shifts(x: Tensor, codes: Codes, bias: Tensor | None = None) -> Tensor:
    """The layer by additions and shifts alone: x [... i] -> [... o] float64, where a shift is a change of the exponent.

    For every power of two the activations that it goes with are added or subtracted, and their sum is shifted once.
    """
    total = x.new_zeros(*x.shape[:-1], len(codes.codes), dtype=torch.float64)
    wide = x.double()
    for power, sign in terms(codes.format):
        for shift in power.unique().tolist():
            use = torch.where(power == shift, sign, 0.0).to(x.device)[codes.codes.long()]
            total = total + torch.ldexp(wide @ use.double().T, torch.tensor(shift, device=x.device))
    total = total * codes.scale.double()
    return total if bias is None else total + bias.double()


def terms(format: Format) -> list[tuple[Tensor, Tensor]]:
    """A table as sums of signed powers of two: for every term the exponents [k] int64 and the signs [k].

    Raises:
        InputError: a table that is no sum of two.
    """
    left, found = format.table.double(), list[tuple[Tensor, Tensor]]()
    for _ in range(2):
        some = left != 0
        if not bool(some.any()):
            break
        power = torch.where(some, left.abs().clamp(min=1e-300).log2().floor(), 0.0)
        found.append((power.long(), left.sign()))
        left = left - left.sign() * torch.exp2(power) * some
    if bool((left != 0).any()):
        raise InputError(f"format {format.name} is no sum of two powers of two")
    return found

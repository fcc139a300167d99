"""A learnable 2-D lifting scheme inside a patch: a coarse band, and what it leaves out, exactly invertible.

Lifting: Sweldens, "The Lifting Scheme" (1996). That P and U may be learnt: Rodriguez et al., "Deep Adaptive Wavelet
Network" (arXiv:1912.05035). IRET names a learnable 2-D lifting scheme and no more; that it works inside the patch, and
every choice below, is our reconstruction. Inside the patch, since then the details of a few patches are the same
numbers whether they are gathered before or after.

    even, odd -> detail = odd - P(even), coarse = even + U(detail)      columns first, then the rows of both
"""

from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from foveate.errors import InputError, one_of

# Taps on the sample before, the same, and the one after.
STARTS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "haar": ((0.0, 1.0, 0.0), (0.0, 0.5, 0.0)),  # coarse is the mean of two, detail their difference
    "cdf53": ((0.0, 0.5, 0.5), (0.25, 0.25, 0.0)),  # JPEG 2000's lossless one
}
SAMPLINGS = ("lowpass", "polyphase")
ROWS, COLUMNS = -2, -1


class Bands(NamedTuple):
    """A quarter of a patch's pixels each, [M c p/2 p/2]; the first letter is of the columns, the second of the rows."""

    ll: Tensor
    lh: Tensor
    hl: Tensor
    hh: Tensor


@final
class Filter(nn.Module):
    """What samples tell of their neighbours along an axis: three taps a channel, and what is learnt across channels.

    Without hidden channels the taps are all there is. Written as sums of elementwise products: a matrix product may
    round by how many patches it is given, and then a patch's details would depend on which others are sampled.
    """

    def __init__(self, channels: int, taps: tuple[float, float, float], hidden: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.tensor(taps).repeat(channels, 1))  # [c 3]
        self.hidden = hidden
        if not hidden:
            return
        self.widen = nn.Parameter(torch.randn(hidden, channels) / channels**0.5)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.narrow = nn.Parameter(torch.randn(channels, hidden) / hidden**0.5)
        self.scale = nn.Parameter(torch.zeros(channels))  # zero: linear at the start

    def forward(self, x: Tensor, axis: int) -> Tensor:
        """x [... c h w] -> the same shape. Beyond the patch's edge, its last sample stands."""
        at = torch.arange(count := x.shape[axis], device=x.device)
        before, after = x.index_select(axis, (at - 1).clamp(min=0)), x.index_select(axis, (at + 1).clamp(max=count - 1))
        linear = _total(t[:, None, None] * v for t, v in zip(self.taps.unbind(1), (before, x, after), strict=True))
        if not self.hidden:
            return linear
        inner = nn.functional.gelu(_across(self.widen, x) + self.bias[:, None, None])
        return linear + self.scale[:, None, None] * torch.tanh(_across(self.narrow, inner))


@final
class Step(nn.Module):
    """One lifting along an axis. Exact for any P and U, since the inverse subtracts what was added."""

    def __init__(self, channels: int, start: str, hidden: int, update: bool) -> None:
        super().__init__()
        predict, up = STARTS[start]
        self.predict = Filter(channels, predict, hidden)
        self.update = Filter(channels, up, hidden) if update else None

    def forward(self, even: Tensor, odd: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """Every other sample along an axis, and those between, [... c h w] each -> (coarse, detail)."""
        detail = odd - self.predict(even, axis)
        return (even if self.update is None else even + self.update(detail, axis)), detail

    def inverse(self, coarse: Tensor, detail: Tensor, axis: int) -> Tensor:
        even = coarse if self.update is None else coarse - self.update(detail, axis)
        odd = detail + self.predict(even, axis)
        at = axis + even.dim() + 1
        return torch.stack((even, odd), at).flatten(at - 1, at)


@final
class Lifting(nn.Module):
    """Patches [M c p p] -> `Bands`, and back."""

    def __init__(
        self,
        channels: int = 3,
        start: Literal["haar", "cdf53"] = "haar",
        sampling: Literal["lowpass", "polyphase"] = "lowpass",
        hidden: int | None = None,
    ) -> None:
        """
        Args:
            start: what P and U are before training.
            sampling: "lowpass" reads every pixel for the coarse band; "polyphase" has no U, so that the coarse band is
                every other pixel of every other row, and the rest need not be read (but aliases).
            hidden: channels inside the learnt part across channels, twice those of the image by default; with 0 there
                is none, and the scheme stays linear whatever its taps become.

        Raises:
            InputError: for an unknown word.
        """
        super().__init__()
        if start not in STARTS:
            raise one_of("start", start, STARTS)
        if sampling not in SAMPLINGS:
            raise one_of("sampling", sampling, SAMPLINGS)
        self.channels = channels
        self.linear, self.lowpass = hidden == 0, sampling == "lowpass"
        hidden = 2 * channels if hidden is None else hidden
        made = [Step(channels, start, hidden, self.lowpass) for _ in range(3)]
        self.columns, self.rows_coarse, self.rows_detail = made

    def forward(self, patches: Tensor) -> Bands:
        """
        Raises:
            InputError: for patches with an odd side.
        """
        high, wide = patches.shape[-2:]
        if high % 2 or wide % 2:
            raise InputError(f"a patch is {high} x {wide}; allowed: even sides")
        ll, rest = self.begin(self.quarters(patches))
        return Bands(ll, *self.finish(rest))

    @staticmethod
    def quarters(patches: Tensor) -> Tensor:
        """Patches [M c p p] as `begin` takes them."""
        high, wide = patches.shape[-2:]
        squares = patches.unflatten(-1, (wide // 2, 2)).unflatten(-3, (high // 2, 2))
        return squares.permute(5, 3, 0, 1, 2, 4).contiguous()

    def begin(self, quarters: Tensor) -> tuple[Tensor, Tensor]:
        """The coarse band, by no more pixels and operations than it takes, and what is left to look at.

        Args:
            quarters: [2 2 M c p/2 p/2], even and odd columns, even and odd rows of each patch. Apart from the start,
                they are parts of memory, where every other pixel would be picked out again by each lifting.

        Returns:
            LL [M c p/2 p/2], and [M k c p/2 p/2] for `finish`: where the coarse band has read all pixels already the
            details that came of it, else the pixels.
        """
        if not self.lowpass:
            return quarters[0, 0], quarters.flatten(0, 1).movedim(0, 1)
        coarse, detail = self.columns(*quarters, COLUMNS)
        ll, lh = self.rows_coarse(*coarse, ROWS)
        return ll, torch.stack((lh, *detail), 1)

    def finish(self, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """LH, HL and HH of the patches that are asked for."""
        rest = rest.movedim(1, 0).contiguous()  # GELU rounds otherwise where memory lies otherwise
        if not self.lowpass:
            coarse, detail = self.columns(rest[:2], rest[2:], COLUMNS)
            lh = self.rows_coarse(*coarse, ROWS)[1]
        else:
            lh, detail = rest[0], rest[1:]
        return lh, *self.rows_detail(*detail, ROWS)

    def inverse(self, bands: Bands) -> Tensor:
        coarse = self.rows_coarse.inverse(bands.ll, bands.lh, ROWS)
        return self.columns.inverse(coarse, self.rows_detail.inverse(bands.hl, bands.hh, ROWS), COLUMNS)

    @torch.no_grad()
    def split(self, weight: Tensor) -> Bands:
        """What an embedding of pixels [d c p p] does to each band, [d c p/2 p/2]: their sum over bands is what it was.

        By the linear part of the scheme, so exact before training: a band's weight is its answer to what each
        coefficient alone looks like.
        """
        d, c, p, _ = weight.shape
        half, zero = p // 2, torch.zeros(p * p // 4, 1, p // 2, p // 2, dtype=weight.dtype)
        unit = torch.eye(half * half, dtype=weight.dtype).view(-1, 1, half, half)
        found = []
        for i in range(4):
            band = Bands(*(unit.expand(-1, c, -1, -1) if j == i else zero.expand(-1, c, -1, -1) for j in range(4)))
            found.append(self._linear(band))  # [p*p/4 c p p]
        return Bands(*(torch.einsum("dcij,acij->dca", weight, f).view(d, c, half, half) for f in found))

    def _linear(self, bands: Bands) -> Tensor:
        scales = [f.scale for f in self.modules() if isinstance(f, Filter) and f.hidden]
        kept = [s.detach().clone() for s in scales]
        for s in scales:
            s.zero_()
        try:
            return self.inverse(bands)
        finally:
            for s, value in zip(scales, kept, strict=True):
                s.copy_(value)


def _across(weight: Tensor, x: Tensor) -> Tensor:
    """A linear map of channels: weight [o c], x [... c h w] -> [... o h w]. Runtimes fuse products and sums."""
    return _total(w[:, None, None] * v for w, v in zip(weight.unbind(1), x.split(1, -3), strict=True))


def _total(parts: Iterable[Tensor]) -> Tensor:
    return reduce(add, parts)

"""ShiftAddViT's attention: queries and keys as bits, so that two masked sums take the place of two matrix products.

    q, k of length 1;  qb = [q > t], kb = [k > t] in {0, 1}
    M = kb' v                                        [bits d]  a sum of those rows of v whose key has the bit
    y = v/2 + (1/pi) qb M                            [N d]     a sum of those rows of M whose bit the query has
    out = y / |y| + conv(v)                          a depth-wise convolution along the tokens

You et al., "ShiftAddViT: Mixture of Multiplication Primitives Towards Efficient Vision Transformer", NeurIPS 2023
(arXiv:2306.06446), after the angular kernel 1/2 + arcsin(q k)/pi. The constant goes with a token's own value and
nothing normalises a row but the length of y, as in the released code (GATECH-EIC/ShiftAddViT at 47671cf); the paper's
tables could not be read.

Bits are made in one of two ways. `threshold`: a channel is a bit, against a threshold a head and channel that is
learnt. The released code compares with the mean over the whole batch, so that an image's answer depends on its batch
mates; here it does not. `ksh`: kernel-based supervised hashing (Liu et al., CVPR 2012, as in EcoFormer, Liu et al.,
NeurIPS 2022): 16 bits of a linear form in the likeness to 25 anchors, fitted once to the first batch and kept as
buffers. It costs real products and exponentials: it is not free of multiplications.

Gradients pass a bit as those of a ramp around its threshold.
"""

import math
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from foveate.attention._base import CORES, Core
from foveate.errors import InputError

QUANTISERS = ("threshold", "ksh")
WINDOW = 9  # tokens under the convolution
BITS, ANCHORS, LIKEST = 16, 25, 10
STEPS, RATE, MOMENTUM = 100, 5e-4, 0.9


class _Bit(torch.autograd.Function):
    """1 above 0, else 0; backwards a ramp of that width around 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(x.abs() * 2 < width)
        ctx.width = width
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (near,) = ctx.saved_tensors
        return grads[0] * near / ctx.width, None


class Threshold(nn.Module):
    """[B H N d] of unit length -> as many bits; a threshold a head and channel."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(heads, 1, width))
        self.ramp = 2 * width**-0.5  # two standard deviations of a unit vector's channel, to either side of one

    def forward(self, x: Tensor) -> Tensor:
        return _Bit.apply(x - self.threshold, self.ramp)  # type: ignore[no-any-return]


class KernelHash(nn.Module):
    """[B H N d] -> BITS bits: the sign of a linear form in what a token is like, of ANCHORS tokens."""

    anchors: Tensor
    mean: Tensor
    forms: Tensor
    fitted: Tensor

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.register_buffer("anchors", torch.zeros(heads, ANCHORS, width))
        self.register_buffer("mean", torch.zeros(heads, ANCHORS))
        self.register_buffer("forms", torch.zeros(heads, BITS, ANCHORS))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))  # in the state, so that it is fitted once

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.device.type != "meta" and not bool(self.fitted):
            self.fit(x)
        return _Bit.apply(self.likeness(x) @ self.forms.mT, 2.0)  # type: ignore[no-any-return]

    def likeness(self, x: Tensor) -> Tensor:
        """Gaussian kernels to the anchors, centred: [B H N a]. Their width is an image's own mean distance."""
        # By a matrix product: [B H N a d] of differences would be the largest tensor of the model.
        lengths = x.square().sum(-1, keepdim=True) + self.anchors.square().sum(-1)[None, :, None]
        apart = (lengths - 2 * (x @ self.anchors.mT)).clamp(min=0)
        width = apart.mean((-1, -2), keepdim=True).clamp(min=1e-12)
        return torch.exp(-apart / (2 * width)) - self.mean[:, None]

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Anchors from the first image, then bit after bit so that likest tokens agree in it and unlikest don't.

        Draws from a seed of its own: the same batch gives the same bits.
        """
        lot = torch.Generator(device="cpu").manual_seed(0)
        x = x.detach().float()
        n = x.shape[2]
        picks = torch.randperm(n, generator=lot)[:ANCHORS].to(x.device)
        chosen = x[0][:, picks]
        if n < ANCHORS:
            chosen = torch.cat([chosen, chosen[:, torch.arange(ANCHORS - n, device=x.device) % n]], dim=1)
        self.anchors.copy_(chosen)
        self.mean.zero_()
        self.mean.copy_(self.likeness(x).mean((0, 2)))
        like = self.likeness(x)[0]  # [H N a]
        unit = normalize(x[0], dim=-1)
        cosine, few = unit @ unit.mT, min(LIKEST, n)
        target = torch.zeros_like(cosine)
        target.scatter_(-1, cosine.topk(few, dim=-1).indices, 1.0)
        target.scatter_(-1, (-cosine).topk(few, dim=-1).indices, -1.0)
        left = BITS * target
        forms = torch.randn(len(like), BITS, ANCHORS, generator=lot).to(x.device)
        for bit in range(BITS):
            forms[:, bit] = fitted_form(forms[:, bit], like, left)
            sign = torch.where((like @ forms[:, bit, :, None])[..., 0] > 0, 1.0, -1.0)
            left = left - sign[..., None] * sign[..., None, :]
        self.forms.copy_(forms)
        self.fitted.fill_(True)


def fitted_form(form: Tensor, like: Tensor, left: Tensor) -> Tensor:
    """A linear form [H a] whose signs agree better with `left` [H N N], or the given one where none was found."""
    n = like.shape[1]

    def loss(forms: Tensor, hard: bool) -> Tensor:
        value = (like @ forms[..., None])[..., 0]
        y = torch.where(value > 0, 1.0, -1.0) if hard else 2 * torch.sigmoid(value) - 1
        return -torch.einsum("hn,hnm,hm->h", y, left, y) / (n * BITS)

    with torch.enable_grad():
        moved = form.clone().requires_grad_()
        optimizer = torch.optim.SGD([moved], lr=RATE, momentum=MOMENTUM, nesterov=True)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss(moved, hard=False).sum().backward()
            optimizer.step()
    moved = moved.detach()
    better = loss(moved, hard=True) < loss(form, hard=True)
    return torch.where(better[:, None], moved, form)


@final
@CORES.register("hashed_linear")
class HashedLinear(Core):
    copies = False  # the convolution runs along the tokens that are left

    def __init__(self, *, heads: int, width: int, quantiser: str = "threshold") -> None:
        """`heads` and `width` (channels a head) of the block, which has weights for them."""
        super().__init__()
        if quantiser not in QUANTISERS:
            raise InputError(f"quantiser {quantiser!r}; allowed: {', '.join(QUANTISERS)}")
        self.heads, self.width, self.quantiser = heads, width, quantiser
        if quantiser == "ksh":  # one hash for both, as published
            self.q_bits: nn.Module = KernelHash(heads, width)
        else:
            self.q_bits, self.k_bits = Threshold(heads, width), Threshold(heads, width)
        self.conv = nn.Conv2d(heads, heads, (WINDOW, 1), padding=(WINDOW // 2, 0), groups=heads, bias=False)
        nn.init.zeros_(self.conv.weight)  # at first nothing is added to a converted model

    @classmethod
    def of(cls, heads: int, width: int, tokens: int, **options: Any) -> "HashedLinear":
        return cls(heads=heads, width=width, **options)

    def bits(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Of queries and keys, 0 or 1."""
        of_keys = self.q_bits if self.quantiser == "ksh" else self.k_bits
        return self.q_bits(normalize(q, dim=-1)), of_keys(normalize(k, dim=-1))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, size: Tensor | None = None) -> Tensor:
        q_bits, k_bits = self.bits(q, k)
        counted = v if size is None else v * size[:, None, :, None].to(v.dtype)
        y = 0.5 * v + (q_bits @ (k_bits.mT @ counted)) / math.pi
        return normalize(y, dim=-1) + self.conv(v)

    @torch.no_grad()
    def reference(self, q: Tensor, k: Tensor, v: Tensor, size: Tensor | None = None) -> Tensor:
        """By sums alone, a bit after another."""
        q_bits, k_bits = (bits.bool() for bits in self.bits(q, k))
        v = v.double()
        counted = v if size is None else v * size.double()[:, None, :, None]
        y = 0.5 * v
        for bit in range(q_bits.shape[-1]):
            row = torch.where(k_bits[..., bit, None], counted, 0.0).sum(2, keepdim=True)
            y = y + torch.where(q_bits[..., bit, None], row, 0.0) / math.pi
        out, half = y / y.norm(dim=-1, keepdim=True).clamp(min=1e-12), WINDOW // 2
        for offset in range(-half, half + 1):
            there = torch.zeros_like(v)
            n = v.shape[2]
            to, come = slice(max(0, -offset), min(n, n - offset)), slice(max(0, offset), min(n, n + offset))
            if to.stop > to.start:
                there[:, :, to] = v[:, :, come]
            out = out + self.conv.weight.double()[:, 0, offset + half, :, None] * there
        return out

    def rows(self, q: Tensor, k: Tensor, size: Tensor | None = None) -> Tensor:
        """Of a token's sum of values as it is before its length becomes 1; the half of its own value left out."""
        q_bits, k_bits = self.bits(q, k)
        shared = (q_bits @ k_bits.mT).float()
        weight = (shared if size is None else shared * size.float()[:, None, None]) + 1e-6
        return weight / weight.sum(-1, keepdim=True)

    def terms(self, heads: int, width: int) -> tuple[int, int]:
        bits = width if self.quantiser == "threshold" else BITS
        hashing = 2 * ANCHORS * (width + BITS) if self.quantiser == "ksh" else 0
        return heads * (2 * bits * width + hashing + WINDOW * width), 0

    def check_ready(self) -> None:
        if isinstance(self.q_bits, KernelHash) and not bool(self.q_bits.fitted):
            raise InputError(
                "hashed_linear with quantiser ksh: its bits were never fitted; train it on one batch first"
            )

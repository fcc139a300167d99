"""ShiftAddViT's mixture: a token goes to a multiplying expert or to a shifting one, as a router says.

    p = softmax(x W)                       chosen = the larger of x W, in training with noise of sd 1/2 upon it
    y = G E_chosen(x)

You et al., "ShiftAddViT: Mixture of Multiplication Primitives Towards Efficient Vision Transformer", NeurIPS 2023
(arXiv:2306.06446). Both experts start from the same trained layer. Two layers of an MLP share one route: the experts
are whole MLPs.

Training balances by latency (`latency_aware_loss`): what counts is that both experts take their tokens equally long, so
the slower one gets fewer, in the inverse ratio of their measured latencies.

Where we differ:
- In eval mode the *number* of tokens that go to an expert is fixed: of N tokens of an image those round(N t / (1 + t))
  whose router prefers shifting least stay with the multiplying one, t being how much faster that is. A count that is
  known beforehand is what compilers need, and an image's answer hangs on no other image.
- The gate G is 1 forwards and has the gradient of log p ("straight"), so that a model is what it was before training;
  "probability" is the paper's G = p.
The released code (GATECH-EIC/ShiftAddViT at 47671cf) gives its router no gradient at all, adds log G to an expert's
output where it should multiply by G, and cuts off outputs below -36; none of that is here.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from foveate.errors import InputError
from foveate.linears._base import LINEARS, LinearVariant, for_inference, with_layers
from foveate.linears.shift import ShiftLinear

GATES = ("straight", "probability")
NOISE = 0.5  # 1 / experts
RATIO = 1.5  # 6 : 4, what the released code has written into it
MULTIPLY, SHIFT = 0, 1


def latency_aware_loss(logits: Tensor, noisy: Tensor, latency: Sequence[float], *, noise: float = NOISE) -> Tensor:
    """SCV(a_e sum_x p_e) + SCV(a_e sum_x q_e): 0 where every expert takes as long as any other.

    SCV(v) = var(v) / mean(v)^2, of the population; a_e = latency_e over their sum; p = softmax of the logits; q_e the
    probability that e is chosen when its noise is drawn again, that of the others staying.

    Args:
        logits, noisy: [n E], the second with the noise that routed these tokens.
        latency: of each expert, in any unit.
        noise: its standard deviation.
    """
    share = torch.as_tensor(latency, dtype=torch.float32, device=logits.device)
    share = share / share.sum()
    logits, noisy = logits.float(), noisy.float()
    chosen = torch.special.ndtr((logits - _best_of_others(noisy)) / noise)
    return sum((_scv(share * each.sum(0)) for each in (logits.softmax(-1), chosen)), logits.new_zeros(()))


def _best_of_others(noisy: Tensor) -> Tensor:
    """For every expert the largest logit among the other ones: [n E]."""
    most = noisy.topk(2, dim=-1)
    first = most.indices[:, :1] == torch.arange(noisy.shape[1], device=noisy.device)
    return torch.where(first, most.values[:, 1:], most.values[:, :1])


def _scv(v: Tensor) -> Tensor:
    return v.var(correction=0) / v.mean().square().clamp(min=1e-12)


@final
class Router(nn.Module):
    """x [... C] -> by how much multiplication is preferred, [...] in float32: the difference of two logits.

    A module by itself, and one value a token: its products stay float in an int8 build, where exporters know a node by
    the module that it comes from. (Two values, taken apart behind an int8 product, ended OpenVINO 2026.4.)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, width))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.float()
        return nn.functional.linear(x.float(), (weight[MULTIPLY] - weight[SHIFT])[None]).squeeze(-1)

    def logits(self, x: Tensor) -> Tensor:
        """[... 2] in float32."""
        return nn.functional.linear(x.float(), self.weight.float())


@final
class Routed(nn.Module):
    """x [B N i] -> [B N o], every token through one of two experts.

    Args:
        multiply, shift: the experts.
        width: channels of a token.
        ratio: how many times as long a token takes in the first one, measured where the model will run.
        gate: "straight" or "probability".

    Raises:
        InputError: a ratio that is not above 0 and finite, an unknown gate.
    """

    def __init__(
        self, multiply: nn.Module, shift: nn.Module, width: int, *, ratio: float = RATIO, gate: str = "straight"
    ) -> None:
        super().__init__()
        if not (isinstance(ratio, int | float) and math.isfinite(ratio) and ratio > 0):
            raise InputError(f"ratio {ratio}; allowed: above 0, how much longer a token takes by multiplication")
        if gate not in GATES:
            raise InputError(f"gate {gate!r}; allowed: {', '.join(GATES)}")
        self.experts = nn.ModuleList([multiply, shift])
        self.router = Router(width)
        self.ratio, self.gate = float(ratio), gate
        self.balance: Tensor | None = None  # of the last pass in training

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"balance": None}  # part of a graph of gradients, which copies have no part in

    @property
    def share(self) -> float:
        """Of the tokens, to the multiplying expert."""
        return 1 / (1 + self.ratio)

    def count(self, tokens: int) -> int:
        """How many of an image's tokens the multiplying expert gets in eval mode.

        >>> layer = nn.Linear(4, 4)
        >>> Routed(layer, layer, 4, ratio=1.5).count(197)
        79
        """
        return round(self.share * tokens)

    def forward(self, x: Tensor) -> Tensor:
        learning = self.training and x.device.type != "meta"  # on shapes alone, counts have to be known
        return self.learning(x) if learning else self.planned(x)

    def learning(self, x: Tensor) -> Tensor:
        """As published: the larger logit, noise upon it. Leaves the balance of this pass in `balance`."""
        flat = x.flatten(0, -2)
        with torch.autocast(flat.device.type, enabled=False):
            logits = self.router.logits(flat)
        noisy = logits + NOISE * torch.randn_like(logits)
        self.balance = latency_aware_loss(logits, noisy, (self.ratio, 1.0))
        chosen = noisy.argmax(-1)
        gate = logits.softmax(-1).gather(1, chosen[:, None]).to(x.dtype)
        if self.gate == "straight":
            gate = gate / gate.detach()
        index = [(chosen == e).nonzero()[:, 0] for e in (MULTIPLY, SHIFT)]
        # An expert without tokens is asked with none, so that its parameters have gradients (of zero) all the same.
        parts = [expert(flat[i]) for expert, i in zip(self.experts, index, strict=True)]
        y = torch.cat(parts)[torch.cat(index).argsort()] * gate
        return y.unflatten(0, x.shape[:-1])

    def planned(self, x: Tensor) -> Tensor:
        """As deployed: so many tokens here, the rest there; static shapes, each expert sees its own tokens alone."""
        margin, n = self.router(x), x.shape[-2]
        count = self.count(n)
        order = margin.topk(n, dim=-1).indices
        sorted_x = x.gather(-2, order[..., None].expand_as(x))
        parts = [
            expert(part)
            for expert, part in zip(self.experts, sorted_x.split([count, n - count], dim=-2), strict=True)
            if part.shape[-2] or not n
        ]
        y, back = torch.cat(parts, dim=-2), order.argsort(dim=-1)
        y = y.gather(-2, back[..., None].expand_as(y))
        if self.gate == "straight":
            return y
        gate = torch.where(back < count, margin, -margin).sigmoid()  # a softmax of two
        return y * gate[..., None].to(y.dtype)

    @torch.no_grad()
    def reference(self, x: Tensor) -> Tensor:
        """A token after another, in float64; x [B N i]."""
        experts = [copy.deepcopy(for_inference(expert)).double() for expert in self.experts]
        found = []
        for image in x:
            logits = self.router.logits(image)
            order = sorted(range(len(image)), key=lambda t, z=logits: float(z[t, SHIFT] - z[t, MULTIPLY]))
            first = set(order[: self.count(len(image))])
            rows = []
            for t, token in enumerate(image):
                e = MULTIPLY if t in first else SHIFT
                p = 1.0 if self.gate == "straight" else float(logits[t].double().softmax(-1)[e])
                rows.append(p * experts[e](token.double()))
            found.append(torch.stack(rows))
        return torch.stack(found)

    def for_inference(self) -> "Routed":
        made = Routed(nn.Identity(), nn.Identity(), self.router.weight.shape[1], ratio=self.ratio, gate=self.gate)
        made.experts = nn.ModuleList(for_inference(expert) for expert in self.experts)
        made.router = self.router
        return made.eval()

    def extra_repr(self) -> str:
        return f"ratio={self.ratio:g}, gate={self.gate}"


@final
@LINEARS.register("mixture")
class Mixture(LinearVariant):
    """A multiplying and a shifting expert, and a router; in the place of an MLP its layers share one route."""

    def __init__(
        self, layer: nn.Linear, *, ratio: float = RATIO, gate: str = "straight", format: str = "pot4",
        learn: str = "weights",
    ) -> None:  # fmt: skip
        super().__init__()
        shift = ShiftLinear(layer, format=format, learn=learn)
        self.routed = Routed(copy.deepcopy(layer), shift, layer.in_features, ratio=ratio, gate=gate)

    @classmethod
    def around(cls, mlp: nn.Module, width: int, **options: Any) -> Routed:
        route = {k: options.pop(k) for k in ("ratio", "gate") if k in options}
        shift = with_layers(mlp, lambda layer: ShiftLinear.of(layer, **options))
        return Routed(copy.deepcopy(mlp), shift, width, **route)

    def forward(self, x: Tensor) -> Tensor:
        return self.routed(x)  # type: ignore[no-any-return]

    def reference(self, x: Tensor) -> Tensor:
        return self.routed.reference(x)

    def for_inference(self) -> nn.Module:
        return self.routed.for_inference()


def balance_of(model: nn.Module) -> Tensor | None:
    """The mean balance of all mixtures of a model in its last pass in training; None without any."""
    found = [m.balance for m in model.modules() if isinstance(m, Routed) and m.balance is not None]
    return torch.stack(found).mean() if found else None

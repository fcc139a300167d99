"""How one stream of tokens takes from the other: target [B T D], source [B S D] -> what the target takes, [B T D].

`lin` is the published head; the others are those of the authors' ablation. What is read in their code and not stated
in the paper: the formulas of all but `lin`. Their linear head holds an output projection that it never applies; ours
has none.
"""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, scaled_dot_product_attention

from foveate.errors import InputError

EPS = 1e-6  # under the sum of a row's weights


@final
class Linear(nn.Module):
    """Multi-head linear attention (Katharopoulos et al., arXiv:2006.16236) with the feature map elu + 1.

    O_j = phi(q_j) (sum_s phi(k_s) v_s^T) / (phi(q_j) . sum_s phi(k_s)), with queries and keys of `latent` channels and
    values of all D. Keys and values come out of one product.
    """

    def __init__(self, dim: int, heads: int, latent: int, sources: int, targets: int) -> None:
        super().__init__()
        self.heads, self.latent = heads, latent
        self.q = nn.Linear(dim, latent)
        self.kv = nn.Linear(dim, latent + dim)

    def forward(self, target: Tensor, source: Tensor, size: Tensor | None = None) -> Tensor:
        """`size` [B S]: how often each source token counts."""
        q = elu(self.q(target)) + 1
        k, v = self.kv(source).split([self.latent, source.shape[-1]], dim=-1)
        k = elu(k) + 1
        if size is not None:
            k = k * size[..., None].to(k.dtype)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        total = q @ k.sum(2)[..., None] + EPS  # [B H T 1]
        return (q @ (k.mT @ v) / total).transpose(1, 2).flatten(2)


@final
class Softmax(nn.Module):
    """Ordinary cross-attention at full width, its queries, keys and values normalised before the heads part."""

    def __init__(self, dim: int, heads: int, latent: int, sources: int, targets: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim)) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, target: Tensor, source: Tensor, size: Tensor | None = None) -> Tensor:
        made = (self.q(target), self.k(source), self.v(source))
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in made)
        bias = None if size is None else size.log()[:, None, None].to(q.dtype)
        return self.proj(scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


@final
class Efficient(nn.Module):
    """Linear attention by two softmaxes (Shen et al., arXiv:1812.01243): queries over channels, keys over tokens."""

    def __init__(self, dim: int, heads: int, latent: int, sources: int, targets: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k = (nn.Sequential(nn.Linear(dim, latent), nn.LayerNorm(latent)) for _ in range(2))
        self.v = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, target: Tensor, source: Tensor, size: Tensor | None = None) -> Tensor:
        made = (self.q(target), self.k(source), self.v(source))
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in made)
        k = over_tokens(k, size)
        return self.proj((q.softmax(-1) @ (k.mT @ v)).transpose(1, 2).flatten(2))


@final
class Latent(nn.Module):
    """One head, small MLPs for queries and keys, and no projection of what is carried: the source is its own value."""

    hidden = 64

    def __init__(self, dim: int, heads: int, latent: int, sources: int, targets: int) -> None:
        super().__init__()
        self.q, self.k = (
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, self.hidden), nn.GELU(), nn.Linear(self.hidden, latent))
            for _ in range(2)
        )

    def forward(self, target: Tensor, source: Tensor, size: Tensor | None = None) -> Tensor:
        return self.q(target).softmax(-1) @ (over_tokens(self.k(source), size).mT @ source)


@final
class TokenLearner(nn.Module):
    """Token Turing Machines' read (arXiv:2211.09119): weights over source and target together, from an MLP a token.

    It has a weight for each of `targets` tokens out: the target's count is fixed.
    """

    def __init__(self, dim: int, heads: int, latent: int, sources: int, targets: int) -> None:
        super().__init__()
        self.targets = targets
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, targets), nn.GELU(), nn.Linear(targets, targets)
        )  # fmt: skip

    def forward(self, target: Tensor, source: Tensor, size: Tensor | None = None) -> Tensor:
        if target.shape[1] != self.targets:
            raise InputError(f"this token learner makes {self.targets} tokens; the target has {target.shape[1]}")
        both = torch.cat([source, target], dim=1)
        if size is not None:
            size = torch.cat([size, size.new_ones(target.shape[:2])], dim=1)
        return over_tokens(self.mlp(both), size).mT @ both


def over_tokens(logits: Tensor, size: Tensor | None) -> Tensor:
    """Softmax over the tokens: logits [B S c] or [B H S c]; a token of size n counts n times."""
    if size is not None:
        size = size.log().to(logits.dtype)
        logits = logits + (size[..., None] if logits.ndim == 3 else size[:, None, :, None])
    return logits.softmax(-2)


# By the names that the authors' code gives them.
HEADS = {"lin": Linear, "ca": Softmax, "lca": Efficient, "la": Latent, "tl": TokenLearner}


@final
class Fusion(nn.Module):
    """What becomes of the target [B T D] and of what its head returned, [B T D].

    `add`: their sum, as published. `erase`: the latter alone. `add_erase`: a blend by one gate a target token, made of
    the mean of what was returned.
    """

    def __init__(self, kind: str, dim: int, targets: int) -> None:
        super().__init__()
        self.kind = kind
        self.gate = nn.Linear(dim, targets) if kind == "add_erase" else None

    def forward(self, target: Tensor, taken: Tensor) -> Tensor:
        if self.kind == "add":
            return target + taken
        if self.gate is None:
            return taken
        gate = self.gate(taken.mean(1)).sigmoid()[..., None]
        return target + gate * (taken - target)


FUSIONS = ("add", "erase", "add_erase")

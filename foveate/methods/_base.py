"""The contract of a token-reduction method. Abstract classes are never instantiated, concrete ones never subclassed.

A method is maths only: it sees tokens and signals, never a model. It decides which patches stay and where the others
go, and lets `select`, `fuse` or `merge` below do the moving, so that sizes, source maps and rotary embeddings follow.

At batch 1 a reduction costs its launches, not its arithmetic, so the movers are written for few operations: the
prefix travels in the same gather as the patches (no slice, no concatenation of tokens), weights are tiny matrices,
and what only a source map or a rotary embedding needs is computed where there is one. Sizes, scores and shares are
float32 throughout.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from foveate.errors import InputError
from foveate.registry import Registry
from foveate.tokens import Signals, Tokens, gather

Signal = Literal["keys", "values", "class_row", "attention"]

DROPPED = -1  # the slot of a patch that is represented by no token


class Reducer(nn.Module, ABC):
    """Makes fewer tokens. Hyper-parameters are keyword-only and stored under their own names."""

    needs: ClassVar[frozenset[Signal]] = frozenset()  # what the reducing block has to hand over; all else is None
    proportional: bool = False  # does the paper weigh later attention by token size?
    max_drop: ClassVar[float] = 1.0  # largest share of the patch tokens one call can remove
    published: ClassVar[bool] = True  # False: our variant, kept out of "as published" tables
    per_image: ClassVar[bool] = True  # False: breaks the law that an image's batch mates change nothing for it

    @abstractmethod
    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        """Return `tokens` with exactly `keep` patch tokens (2 <= keep < P); the prefix is untouched and first.

        What happens to one image must not depend on its batch mates, and shapes may depend on `keep` only. The batch
        size is `x.shape[0]`, not `len(x)`, which would bake it into an exported program.
        """


class Scorer(Reducer):
    """Keeps the `keep` patch tokens with the highest score, in their original order; drops the rest."""

    @abstractmethod
    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        """Importance of every patch token: [B P]."""

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        return select(tokens, highest(self.score(tokens, signals), keep))


class Merger(Reducer):
    """Averages tokens weighted by size: the sum of `x * size` over the tokens never changes."""


def highest(score: Tensor, keep: int) -> Tensor:
    """Indices of the `keep` highest scores, ascending: [B P] -> [B keep]."""
    return score.topk(keep, dim=1).indices.sort(dim=1).values


def select(tokens: Tokens, kept: Tensor) -> Tokens:
    """Keep the prefix and the patch tokens `kept` [B K] (indices among the patches), in that order; drop the rest."""
    x, size, p, source, rope, _ = tokens
    index = _after_prefix(kept, p)
    if source is not None:
        source = _moved(source, _slots(kept, tokens.patches))
    return Tokens(gather(x, index), size.gather(1, index), p, source, None if rope is None else gather(rope, kept))


def merge(
    tokens: Tokens,
    anchor: Tensor,
    moved: Tensor,
    into: Tensor,
    *,
    keep_norm: bool = False,
    dropped: Tensor | None = None,
) -> Tokens:
    """Every output patch is the mean, weighted by size, of its anchor and of the patches moved into it.

    A product over the moved patches alone: every runtime has a fast one, which cannot be said of scatter with a
    reduction. An anchor into which nothing moves has the share 1 exactly and comes out bit for bit, as the prefix does.

    Args:
        anchor: [B K] int64, the patch whose slot (and rotary position) each output patch takes.
        moved: [B R] int64, patches that are no anchors. Patches in neither are dropped.
        into: [B R] int64, the slot (0 .. K-1) each of them goes to.
        keep_norm: give each mean the largest norm among what went into it (ToFu's MLERP).
        dropped: [B 1] bool, images whose moved patches go nowhere.
    """
    x, size, p, source, rope, _ = tokens
    here, there = _after_prefix(anchor, p), moved + p
    own, extra = gather(x, here), gather(x, there)
    own_weight, weight = size.gather(1, here)[..., None], size.gather(1, there)
    if dropped is not None:
        weight = weight.masked_fill(dropped, 0.0)
    empty = size.new_zeros(1, here.shape[1], there.shape[1]).expand(x.shape[0], -1, -1)
    share = empty.scatter(1, (into + p)[:, None], weight[:, None])  # [B p+K R]
    total = own_weight + share.sum(-1, keepdim=True)
    mixed = own * (own_weight / total).to(x.dtype) + (share.to(x.dtype) @ extra) / total.to(x.dtype)
    if keep_norm:
        longest = torch.where(share > 0, length(extra).mT, 0.0).amax(-1, keepdim=True)
        longest = torch.maximum(longest, length(own))
        mixed = mixed * (longest / length(mixed)).to(x.dtype)
    if source is not None:
        into = into if dropped is None else into.masked_fill(dropped, DROPPED)
        source = _moved(source, _slots(anchor, tokens.patches, moved, into))
    return Tokens(mixed, total.squeeze(-1), p, source, None if rope is None else gather(rope, anchor))


def fuse(tokens: Tokens, score: Tensor, keep: int, weight: Tensor, *, normalise: bool = True) -> Tokens:
    """Keep the `keep` - 1 patches of highest score, in their order, and append one token made of all others.

    The appended token takes the rotary position of the best patch in it.

    Args:
        score: [B P].
        weight: [B P], weight of every patch in the appended token; those of kept patches are not used.
        normalise: True for the weighted mean, False for the plain weighted sum, as EViT's.
    """
    x, size, p, source, rope, _ = tokens
    best = score.topk(keep, dim=1).indices
    kept = best[:, :-1].sort(dim=1).values
    index = _after_prefix(kept, p)
    share = pad(weight.float(), (p, 0)).scatter(1, index, 0.0)
    if normalise:
        share = share / share.sum(1, keepdim=True)
    rest = size.scatter(1, index, 0.0)[:, p:].sum(1, keepdim=True)
    if source is not None:
        source = _moved(source, _slots(kept, tokens.patches, others=keep - 1))
    return Tokens(
        torch.cat([gather(x, index), share.to(x.dtype)[:, None] @ x], dim=1),
        torch.cat([size.gather(1, index), rest], dim=1),
        p,
        source,
        None if rope is None else gather(rope, torch.cat([kept, best[:, -1:]], dim=1)),
    )


def pairs(metric: Tensor, drop: int, prefix: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """ToMe's bipartite matching: patches at even places propose their most similar one at odd places; the best move.

    Args:
        metric: [B N D], unit vectors.
        drop: proposals accepted, at most half of P.
        prefix: leading vectors to leave out, so that P = N - prefix.

    Returns:
        anchor [B P-drop] (what stays of the even places in order, then the odd ones), moved [B drop], into [B drop],
        as `merge` takes them.
    """
    best, partner = propose(metric, prefix)
    return accept(best, partner, metric.shape[1] - prefix, drop)


def propose(metric: Tensor, prefix: int = 0) -> tuple[Tensor, Tensor]:
    """The most similar patch at an odd place for each at an even one.

    Written for the runtimes: constant indices because they take strided slices element by element, and two plain
    reductions because OpenVINO's argmax took as long as the product before it.

    Args:
        metric: [B N D], vectors of one length, `prefix` of which are left out: P = N - prefix.

    Returns:
        best [B ceil(P/2)], the product, and partner [B ceil(P/2)], the first odd place (0 .. P/2-1) that has it.
    """
    place = torch.arange(metric.shape[1], device=metric.device)
    product = metric.index_select(1, place[prefix::2]) @ metric.index_select(1, place[prefix + 1 :: 2]).mT
    best, last = product.amax(-1), product.shape[-1] - 1
    return best, torch.where(product >= best[..., None], place[: last + 1], last).amin(-1)


def accept(rank: Tensor, partner: Tensor, patches: int, drop: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `drop` proposals of highest `rank` [B A] are accepted; returns what `pairs` does."""
    batch, evens, odds = rank.shape[0], rank.shape[1], patches // 2
    if drop > odds:
        raise InputError(f"matching can remove at most {odds} of {patches} patches; asked for {drop}")
    place = torch.arange(patches, device=rank.device).expand(batch, -1)
    if drop == evens:  # all of them move: there is nothing to rank, and runtimes dislike empty tensors
        return place[:, 1::2], place[:, ::2], partner
    order = rank.topk(evens, dim=1).indices
    moved, stay = order[:, :drop], order[:, drop:].sort(dim=1).values
    return torch.cat([stay * 2, place[:, 1::2]], dim=1), moved * 2, partner.gather(1, moved) + (evens - drop)


def mean_keys(signals: Signals) -> Tensor:
    """ToMe's metric: every token's keys, averaged over the heads, as unit vectors. [B N D] float32."""
    assert signals.keys is not None
    mean = signals.keys.mean(1, dtype=torch.float32)
    return mean / length(mean)


def length(x: Tensor) -> Tensor:
    """Euclidean norm of every token, never quite zero: [B N C] -> [B N 1] float32."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).clamp(min=1e-12)


def class_score(tokens: Tokens, signals: Signals) -> Tensor:
    """ATS's score: the class token's attention times the length of the value, made to sum to 1. [B P] float32."""
    assert signals.class_row is not None and signals.values is not None
    value = torch.linalg.vector_norm(signals.values, dim=(1, 3), dtype=torch.float32)
    score = (signals.class_row.sum(1, dtype=torch.float32) * value)[:, tokens.prefix :]
    return score / score.sum(1, keepdim=True)


def _after_prefix(patch: Tensor, prefix: int) -> Tensor:
    """Indices among the patches -> indices among all tokens, with the prefix before them."""
    if not prefix:
        return patch
    return torch.cat([torch.arange(prefix, device=patch.device).expand(patch.shape[0], -1), patch + prefix], dim=1)


def _slots(
    anchor: Tensor, patches: int, moved: Tensor | None = None, into: Tensor | None = None, others: int = DROPPED
) -> Tensor:
    """The slot of every patch, [B P]: its place in `anchor`, else what `into` says, else `others`."""
    slots = torch.full((anchor.shape[0], patches), others, dtype=torch.long, device=anchor.device)
    if moved is not None and into is not None:
        slots = slots.scatter(1, moved, into)
    return slots.scatter(1, anchor, torch.arange(anchor.shape[1], device=anchor.device).expand_as(anchor))


def _moved(source: Tensor, slots: Tensor) -> Tensor:
    """The source map once the patch that was at i is in slot slots[i]; what was dropped before stays dropped."""
    slots = pad(slots, (0, 1), value=DROPPED)
    return slots.gather(1, source.where(source >= 0, slots.shape[1] - 1))


METHODS: Registry[Reducer] = Registry("method")

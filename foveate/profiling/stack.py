"""The parts of an adapted model that are timed: tokens in, tokens out, built for a runtime as the whole model would be.

All blocks together, not one: a block that is run alone finds its weights in the cache, which no deployed model does.
"""

import torch
from torch import Tensor, nn

from foveate.adapters import Reduced, adapt
from foveate.methods import METHODS, Reducer
from foveate.plans import Step
from foveate.tokens import Tokens


class Stack(nn.Module):
    """Every block in turn on n tokens, reducing nothing: x [B n-added C] -> [B n C]; n up to the model's full count.

    `attention_only`: the attention halves alone. `added`: prefix tokens that are put before x here, as zeros. It is 0
    but for hosts with a rotary embedding: the exporter rejects an open count that the prefix is subtracted from.
    """

    rope: Tensor | None

    def __init__(self, reduced: Reduced, *, attention_only: bool = False) -> None:
        super().__init__()
        self.reduced, self.attention_only = reduced, attention_only
        self.register_buffer("rope", _rope(reduced))
        self.added = 0 if self.rope is None else reduced.facts.prefix

    def forward(self, x: Tensor) -> Tensor:
        rope = self.rope
        if rope is not None:
            # Wraps around past the last patch, which no count reaches: a plain slice would bound the open dimension.
            rope = rope.index_select(1, torch.arange(x.shape[1], device=x.device) % rope.shape[1])
            x = torch.cat([x.new_zeros(x.shape[0], self.added, x.shape[2]), x], dim=1)
        tokens = _tokens(x, self.reduced, rope)
        for block in range(self.reduced.facts.depth):
            tokens = self.reduced.attend(block, tokens, None)
            if not self.attention_only:
                tokens = self.reduced.mlp(block, tokens)
        return tokens.x


class Ends(nn.Module):
    """All but the blocks: image [B 3 h w] -> the model's output."""

    def __init__(self, reduced: Reduced) -> None:
        super().__init__()
        self.reduced = reduced

    def forward(self, image: Tensor) -> Tensor:
        return self.reduced.finish(self.reduced.embed(image))


class OneReduction(nn.Module):
    """The middle block, reducing n tokens to `tokens`: x [B n C] -> [B tokens C].

    Without a `method` the first tokens are kept, for nothing: what a method costs is its time less this one's.
    """

    rope: Tensor | None

    def __init__(self, model: nn.Module, method: str | None, tokens: int) -> None:
        super().__init__()
        plain = adapt(model)
        self.block, self.tokens = plain.facts.depth // 2, tokens
        if method is not None:
            # Any legal step makes the adapter ready to tap this block; the count comes from here, for any n.
            plain = adapt(model, [Step(block=self.block, method=method, tokens=reachable(plain, method))])
        self.reduced, self.method = plain.eval(), method
        self.register_buffer("rope", _rope(plain))

    def forward(self, x: Tensor) -> Tensor:
        r, block, p = self.reduced, self.block, self.reduced.facts.prefix
        rope = None if self.rope is None else self.rope[:, : x.shape[1] - p]
        tokens = r.attend(block, _tokens(x, r, rope), None)
        if self.method is None:
            rope = None if tokens.rope is None else tokens.rope[:, : self.tokens - p]
            tokens = tokens._replace(x=tokens.x[:, : self.tokens], size=tokens.size[:, : self.tokens], rope=rope)
        else:
            reducer = r.reducers[str(block)]
            assert isinstance(reducer, Reducer)
            tokens = reducer(tokens, r.signals(block, tokens, None, reducer.needs), self.tokens - p)
        return r.mlp(block, tokens).x


def reachable(reduced: Reduced, method: str, share: float = 1 / 3, n: int | None = None) -> int:
    """Tokens left of n (default all) where `method` removes about `share` of the patches, or the most it can."""
    n = reduced.facts.tokens if n is None else n
    return n - max(1, int((n - reduced.facts.prefix) * min(share, METHODS[method].max_drop)))


def _rope(reduced: Reduced) -> Tensor | None:
    """The host's rotary embedding [1 P E], or None."""
    first = next(reduced.host.parameters())
    with torch.no_grad():
        image = torch.zeros(1, *reduced.facts.image, dtype=first.dtype, device=first.device)
        rope = reduced.embed(image).rope
    return None if rope is None else rope.detach().clone()


def _tokens(x: Tensor, reduced: Reduced, rope: Tensor | None) -> Tokens:
    rope = None if rope is None else rope.expand(x.shape[0], -1, -1)
    return Tokens(x, torch.ones_like(x[:, :, 0], dtype=torch.float32), reduced.facts.prefix, rope=rope)

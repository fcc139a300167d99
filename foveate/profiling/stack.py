"""The parts of an adapted model that are timed: tokens in, tokens out, built for a runtime as the whole model would be.

All blocks together, not one: a block that is run alone finds its weights in the cache, which no deployed model does.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foveate.adapters import Reduced, adapt, describe
from foveate.plans import Step
from foveate.schedule import Schedule
from foveate.tokens import Tokens


class Stack(nn.Module):
    """Every block in turn on n tokens, reducing nothing: x [B n-added C] -> [B n C]; n up to the model's full count.

    `attention_only`: the attention halves alone. `added`: prefix tokens that are put before x here, as zeros. It is 0
    but for hosts with a rotary embedding: the exporter rejects an open count that the prefix is subtracted from.
    """

    rope: Tensor | None
    memory: Tensor | None

    def __init__(self, reduced: Reduced, *, attention_only: bool = False) -> None:
        super().__init__()
        self.reduced, self.attention_only = reduced, attention_only
        rope, memory = _beside(reduced)
        self.register_buffer("rope", rope)
        self.register_buffer("memory", memory)
        self.added = 0 if self.rope is None else reduced.facts.prefix
        self.exit = _exit(reduced)

    def forward(self, x: Tensor) -> Tensor:
        rope = self.rope
        if rope is not None:
            # Wraps around past the last patch, which no count reaches: a plain slice would bound the open dimension.
            rope = rope.index_select(1, torch.arange(x.shape[1], device=x.device) % rope.shape[1])
            x = torch.cat([x.new_zeros(x.shape[0], self.added, x.shape[2]), x], dim=1)
        tokens = _tokens(x, self.reduced, rope, self.memory)
        for block in range(self.reduced.facts.depth):
            tokens = self.reduced.attend(block, tokens, None)
            if not self.attention_only:
                tokens = self.reduced.mlp(block, tokens)
        return self.exit(_whole(tokens, self.reduced))


class Ends(nn.Module):
    """All but the blocks: image [B 3 h w] -> the model's output."""

    def __init__(self, reduced: Reduced) -> None:
        super().__init__()
        self.reduced = reduced

    def forward(self, image: Tensor) -> Tensor:
        return self.reduced.finish(self.reduced.embed(image))


class Reductions(nn.Module):
    """The first blocks of a model, one or two of which reduce: x [B n C] -> [B m C], with `counts` after them.

    Two in their places, not one alone: beside other blocks a reduction finds neither its code nor its tokens in
    the nearest cache, and costs up to twice as much. Without a `method` the first tokens are kept, for nothing: what a
    method costs is its time less this one's.
    """

    rope: Tensor | None
    memory: Tensor | None

    def __init__(self, model: nn.Module, method: str | None, counts: Sequence[int]) -> None:
        super().__init__()
        first = 1 if len(counts) > 1 else 0
        self.cuts = dict(enumerate(counts, first))
        f = describe(model)
        # Any legal steps make the adapter ready to reduce in these blocks; the counts, from any n, are put in here.
        steps = [Step(block=b, method=method, tokens=f.tokens - 1 - b) for b in self.cuts] if method else []
        self.reduced, self.method = adapt(model, steps).eval().for_inference(), method
        self.reduced.schedule = Schedule.cut(f.tokens, f.depth, self.cuts, f.prefix)
        rope, memory = _beside(self.reduced)
        self.register_buffer("rope", rope)
        self.register_buffer("memory", memory)
        self.exit = _exit(self.reduced)

    def forward(self, x: Tensor) -> Tensor:
        r, p = self.reduced, self.reduced.facts.prefix
        tokens = _tokens(x, r, None if self.rope is None else self.rope[:, : x.shape[1] - p], self.memory)
        for block in range(min(r.facts.depth, max(self.cuts) + 2)):
            bias = r.bias(block, tokens)
            tokens = r.attend(block, tokens, bias)
            if block in self.cuts:
                tokens = r.reduce(block, tokens, bias) if self.method else _first(tokens, self.cuts[block])
            tokens = r.mlp(block, tokens)
        return self.exit(_whole(tokens, self.reduced))


def trial(n: int, tokens: int, prefix: int, depth: int) -> tuple[int, list[int]]:
    """(tokens at the start, counts after each reduction) whose mean is about n: at most two, an eighth of n each."""
    least = prefix + 2
    start = min(tokens, max(n + n // 8, least + 1))
    times = max(1, min(2, depth - 2, start - least))
    last = max(least, min(n - n // 8, start - times))
    return start, [start - round(i * (start - last) / times) for i in range(1, times + 1)]


def _first(tokens: Tokens, n: int) -> Tokens:
    rope = None if tokens.rope is None else tokens.rope[:, : n - tokens.prefix]
    return tokens._replace(x=tokens.x[:, :n], size=tokens.size[:, :n], rope=rope)


def _exit(reduced: Reduced) -> nn.Linear:
    """A narrow product to end with, as every classifier does.

    A runtime that computes in bf16 leaves what comes after the last product in float32. Without one at the end, that
    was the whole residual stream to OpenVINO: conversions in every block made it a tenth dearer than it is.
    """
    return nn.Linear(reduced.facts.last_width, 16, bias=False)


def _beside(reduced: Reduced) -> tuple[Tensor | None, Tensor | None]:
    """What goes beside the tokens of an empty image: the host's rotary embedding [1 P E] and its memory [1 M C]."""
    first = next(reduced.host.parameters())
    with torch.no_grad():
        image = torch.zeros(1, *reduced.facts.image, dtype=first.dtype, device=first.device)
        tokens = reduced.embed(image)
    rope, memory = (None if t is None else t.detach().clone() for t in (tokens.rope, tokens.memory))
    return rope, memory


def _tokens(x: Tensor, reduced: Reduced, rope: Tensor | None, memory: Tensor | None) -> Tokens:
    rope, memory = (None if t is None else t.expand(x.shape[0], -1, -1) for t in (rope, memory))
    size = torch.ones_like(x[:, :, 0], dtype=torch.float32)
    return Tokens(x, size, reduced.facts.prefix, rope=rope, memory=memory)


def _whole(tokens: Tokens, reduced: Reduced) -> Tensor:
    """Both streams where there are two, so that no runtime leaves one out as unused."""
    if tokens.memory is None or not reduced.facts.memory:  # an IRET-style model keeps there what a look can still tell
        return tokens.x
    return torch.cat([tokens.x, tokens.memory], dim=1)

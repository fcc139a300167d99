"""What every adapter shares: a wrapper that runs a host's own blocks and reduces tokens between attention and MLP.

The wrapper owns a *structural twin* of the host: new module objects around the same parameters and buffers. Hooks that
tap queries, keys and values sit on the twin's reducing blocks alone, so the caller's model keeps its class, its hooks
and its keys, and all other blocks run as they would without us.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from foveate.errors import InputError
from foveate.facts import Facts
from foveate.methods import METHODS, Merger, Reducer
from foveate.plans import Step
from foveate.tokens import Signals, Tokens

TURN = "topk"  # the method by whose name a step asks a host's own decision for its count


class Tap:
    """Holds what a submodule last returned until it is taken, so that nothing is computed twice."""

    def __init__(self, module: nn.Module) -> None:
        self.value: Tensor | None = None
        module.register_forward_hook(self)

    def __call__(self, module: nn.Module, args: tuple[object, ...], out: Tensor) -> None:
        self.value = out

    def take(self) -> Tensor:
        value, self.value = self.value, None
        assert value is not None
        return value


class Reduced(nn.Module, ABC):
    """A model with token reduction built in: image in, the host's outputs out. Abstract; adapters are final.

    Its state-dict keys are the host's under `host.`, with the same memory behind them.
    """

    host: Any  # a zoo's model, whose parts are known by `check` and not by a type

    def __init__(self, model: nn.Module, steps: Sequence[Step]) -> None:
        super().__init__()
        self.check(model)
        self.facts = self.describe(model)
        f = self.facts
        self.steps = tuple(steps)
        self.schedule = f.cut(steps)
        self.host = twin(model)
        self.reducers = nn.ModuleDict()
        for step in self.steps:
            if self.schedule.before[step.block] == step.tokens:
                continue
            self.reducers[str(step.block)] = self._reducer(step)
        # Sizes matter to attention once a method that weighs by them has run.
        weighing = [int(b) for b, r in self.reducers.items() if r.proportional]
        self.weighs_from = min(weighing) + 1 if weighing else f.depth
        # Pooling over merged tokens counts every patch once, whether or not attention does.
        self.pools_by_size = bool(weighing) or any(isinstance(r, Merger) for r in self.reducers.values())

    def for_inference(self) -> "Reduced":
        """What is deployed: the same answers, by fewer operations where weights that no longer change allow it."""
        return self

    @property
    def trunk(self) -> Any:
        """The part of the host that holds the blocks: all of it, unless a head is wrapped around."""
        return self.host

    @classmethod
    @abstractmethod
    def check(cls, model: nn.Module) -> None:
        """Raise InputError, naming the part, where the host has a part this adapter does not know."""

    @classmethod
    def check_answer(cls, model: nn.Module) -> None:
        """Raise InputError where what the host answers with is of no known kind. Not asked of a backbone."""

    @classmethod
    @abstractmethod
    def describe(cls, model: nn.Module) -> Facts: ...

    @abstractmethod
    def embed(self, image: Tensor) -> Tokens:
        """Everything before block 0: image [B 3 h w] -> tokens, all of size 1."""

    @abstractmethod
    def attend(self, block: int, tokens: Tokens, bias: Tensor | None) -> Tokens:
        """The attention half of a block, its residual included. `bias` [B 1 1 N] is added to the attention logits."""

    @abstractmethod
    def mlp(self, block: int, tokens: Tokens) -> Tokens:
        """The MLP half of a block, its residual included."""

    @abstractmethod
    def signals(self, block: int, tokens: Tokens, bias: Tensor | None, needs: frozenset[str]) -> Signals:
        """What attention just computed in `block`; only called for a block that reduces."""

    @abstractmethod
    def head(self, tokens: Tokens, weighted: bool) -> Tensor:
        """Final norm, pooling and classifier. `weighted`: tokens count as often as the patches they stand for."""

    def forward(self, image: Tensor) -> Tensor:
        return self.finish(self.blocks(self.embed(image), 0))

    def blocks(self, tokens: Tokens, first: int = 0, last: int | None = None) -> Tokens:
        """Blocks first .. last-1, with their reductions."""
        for block in range(first, self.facts.depth if last is None else last):
            tokens = self.block(block, tokens)
        return tokens

    def block(self, block: int, tokens: Tokens) -> Tokens:
        bias = self.bias(block, tokens)
        tokens = self.attend(block, tokens, bias)
        return self.mlp(block, self.reduce(block, tokens, bias))

    def bias(self, block: int, tokens: Tokens) -> Tensor | None:
        """What `attend` adds to a block's logits: log sizes [B 1 1 N] once a method that weighs by them has run."""
        return tokens.size.log()[:, None, None].to(tokens.x.dtype) if block >= self.weighs_from else None

    def reduce(self, block: int, tokens: Tokens, bias: Tensor | None) -> Tokens:
        """The reduction of a block, called right after its `attend`; returns `tokens` where there is none."""
        if str(block) not in self.reducers:
            return tokens
        reducer = self.reducers[str(block)]
        assert isinstance(reducer, Reducer)
        found = self.signals(block, tokens, bias, reducer.needs)
        fewer = reducer(tokens._replace(memory=None), found, self.schedule.after[block] - tokens.prefix)
        return fewer._replace(memory=tokens.memory)

    def finish(self, tokens: Tokens) -> Tensor:
        return self.head(tokens, weighted=self.pools_by_size)

    def features(self, image: Tensor) -> Tensor:
        """Tokens of the last block put back on the full grid, for dense tasks: [B prefix+P0 C], before the final norm.

        A merged token's value goes to every patch it stands for; a dropped patch gets zeros.
        """
        tokens = self.blocks(self._sourced(self.embed(image)))
        return restore(tokens)

    def trace(self, image: Tensor) -> dict[int, Tensor]:
        """{block: source map [B P0] after it} for every reducing block: which token holds each patch, -1 if dropped."""
        maps, tokens = {}, self._sourced(self.embed(image))
        for block in range(self.facts.depth):
            tokens = self.block(block, tokens)
            if str(block) in self.reducers:
                assert tokens.source is not None
                maps[block] = tokens.source
        return maps

    @torch.no_grad()
    def dry_run(self) -> tuple[int, ...]:
        """Tokens after every block, read off a run on shapes alone.

        Raises:
            RuntimeError: where a count is not the planned one: nothing is reduced silently, or not at all.
        """
        seen = self._counts()
        if seen != self.schedule.after:
            raise RuntimeError(
                f"the plan asks for {self.schedule.after} tokens after the blocks, the model makes {seen}"
            )
        return seen

    def _counts(self) -> tuple[int, ...]:
        """How many tokens every block leaves."""
        walk = _Walk(self)
        held = chain(walk.named_parameters(), walk.named_buffers())
        meta = {name: torch.empty_like(t, device="meta") for name, t in held}
        image = torch.empty(1, *self.facts.image, dtype=next(self.host.parameters()).dtype, device="meta")
        try:
            return torch.func.functional_call(walk, meta, (image,))
        except Miscounted:
            raise
        except RuntimeError:
            # A tensor that is neither a parameter nor a buffer stayed where it is. Slower, but takes those in.
            with FakeTensorMode(allow_non_fake_inputs=True):
                first = next(self.host.parameters())
                return walk(torch.empty(1, *self.facts.image, dtype=first.dtype, device=first.device))

    def _sourced(self, tokens: Tokens) -> Tokens:
        index = torch.arange(tokens.patches, device=tokens.x.device)
        return tokens._replace(source=index.expand(len(tokens.x), -1))

    def _reducer(self, step: Step) -> Reducer:
        cls, f = METHODS[step.method], self.facts
        if "class_row" in cls.needs and not f.has_class_token:
            able = sorted(n for n, m in METHODS.items() if "class_row" not in m.needs)
            raise InputError(
                f"method {step.method!r} scores by the class token, which this {f.family} has not; "
                f"methods that need none: {', '.join(able)}"
            )
        before = self.schedule.before[step.block] - f.prefix
        drop, most = before - (step.tokens - f.prefix), int(before * cls.max_drop)
        if drop > most:
            raise InputError(
                f"method {step.method!r} removes at most {most} of {before} patches in one block; "
                f"block {step.block} is asked to remove {drop}"
            )
        try:
            return cls(**step.options)
        except TypeError as e:
            raise InputError(f"method {step.method!r} does not take these options: {e}") from None


class Backbone(Reduced, ABC):
    """A model whose tokens stand on one grid of patches, so that a decoder of masks can be put behind it."""

    @abstractmethod
    def dense(self, tokens: Tokens) -> Tensor:
        """What a decoder gets of tokens behind the last block: final norm, un-merged, no prefix: [B P0 C]."""


def on_grid(tokens: Tokens) -> Tensor:
    """The patches of all tokens, un-merged where there is a source map: [B P0 C]."""
    return (tokens.x if tokens.source is None else restore(tokens))[:, tokens.prefix :]


class Miscounted(RuntimeError):
    """There are not as many sizes as tokens."""


class _Walk(nn.Module):
    """An image through all blocks of a reduced model -> how many tokens each leaves."""

    def __init__(self, reduced: Reduced) -> None:
        super().__init__()
        self.reduced = reduced

    def forward(self, image: Tensor) -> tuple[int, ...]:
        tokens, left = self.reduced.embed(image), []
        for block in range(self.reduced.facts.depth):
            tokens = self.reduced.block(block, tokens)
            x, size = tokens.x.shape[:2], tokens.size.shape
            if x != size:
                raise Miscounted(f"block {block} leaves {x[1]} tokens but the sizes of {size[1]}")
            left.append(x[1])
        return tuple(left)


def restore(tokens: Tokens) -> Tensor:
    """Un-merge: tokens with a source map -> [B prefix+P0 C] on the original grid; dropped patches are zero."""
    if tokens.source is None:
        raise ValueError("these tokens carry no source map")
    p, source = tokens.prefix, tokens.source
    index = source.clamp(min=0)[..., None].expand(-1, -1, tokens.x.shape[-1])
    patches = tokens.x[:, p:].gather(1, index) * (source >= 0)[..., None]
    return torch.cat([tokens.x[:, :p], patches], dim=1)


def attention_rows(q: Tensor, k: Tensor, scale: float, bias: Tensor | None) -> Tensor:
    """softmax(q k^T scale + bias): q [B H M D], k [B H N D] -> [B H M N], in float32."""
    logits = (q @ k.mT).float() * scale
    return (logits if bias is None else logits + bias.float()).softmax(-1)


def size_weighted(tokens: Tokens, prefix_too: bool) -> Tensor:
    """x scaled so that the plain mean over the pooled tokens is the mean weighted by size."""
    first = 0 if prefix_too else tokens.prefix
    size = tokens.size[:, first:]
    weight = torch.ones_like(tokens.size)
    weight[:, first:] = size * (size.shape[1] / size.sum(1, keepdim=True))
    return tokens.x * weight[..., None].to(tokens.x.dtype)


def known(part: nn.Module, classes: tuple[type, ...], where: str) -> None:
    """Raise InputError where `part` is not exactly one of `classes`: a subclass may override anything."""
    if type(part) not in classes:
        raise InputError(f"{where} is a {type(part).__name__}; known here: {', '.join(c.__name__ for c in classes)}")


def ordered(steps: Iterable[Step]) -> list[Step]:
    return sorted(steps, key=lambda s: s.block)


def twin(model: nn.Module) -> nn.Module:
    """The same tensors behind new module objects. Non-persistent buffers are shared too."""
    return copy.deepcopy(model, {id(t): t for t in chain(model.parameters(), model.buffers())})

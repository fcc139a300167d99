"""IRET-style models: tokens leave and get detail where the model itself decides, and by any method once it has.

A step at one of the model's transitions is an operating point's part of it: `topk` by the relevance that the model has
accumulated, and with the option `focus` (how many of those that stay get detail; default all). What a decision needs
travels beside the tokens: what a look can still tell as `memory`, which patch a token is and how relevant as `rope`,
which moves with the tokens. Behind the last transition a token is a ViT's, and every method may be used. Where tokens
widen they leave between two blocks: what `Facts` counts as the reduction of a block is then done at its end.
"""

from collections.abc import Iterable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from foveate.adapters._base import TURN, Reduced, size_weighted, twin
from foveate.adapters._timm import PlainBlocks
from foveate.errors import InputError
from foveate.facts import Facts
from foveate.methods import Reducer
from foveate.methods._base import select
from foveate.models.iret.deciding import Counts
from foveate.models.iret.folding import Fold
from foveate.models.iret.model import State
from foveate.plans import Step
from foveate.tokens import Signals, Tokens

PATCH, SCORE, CONTENT = 0, 1, 2  # of what travels with a token


@final
class Increments(Reduced):
    """Operating points of an IRET-style model, and token reduction behind its last transition."""

    def __init__(self, model: nn.Module, steps: Sequence[Step]) -> None:
        super().__init__(model, steps)
        for step in self.steps:  # where all stay and not all get detail, too
            if step.block in self.facts.turns and step.options and str(step.block) not in self.reducers:
                self.reducers[str(step.block)] = self._reducer(step)
        self.plain = PlainBlocks(self)

    @classmethod
    def check(cls, model: Any) -> None:
        PlainBlocks.check(model.blocks)

    @classmethod
    def describe(cls, model: Any) -> Facts:
        return Facts(
            family=type(model).__name__,
            tokens=model.num_patches + model.num_prefix_tokens,
            depth=model.depth,
            prefix=model.num_prefix_tokens,
            width=model.widths[0],
            heads=model.blocks[0].attn.num_heads,
            grid=model.grid,
            image=(model.lifting.channels, model.img_size, model.img_size),
            patch=(model.patch_size, model.patch_size),
            classes=model.num_classes,
            has_class_token=model.num_prefix_tokens > 0,
            turns=model.turns,
            widths=model.widths if len(set(model.widths)) > 1 else (),
            embeddings=embeddings_of(model),
            exits=model.exits,
        )

    def for_inference(self) -> Reduced:
        """With what is linear between pixels and tokens folded into one product."""
        if not self.trunk.lifting.linear or self.trunk.fold is not None:
            return self
        made: Any = twin(self)
        made.trunk.fold = Fold(made.trunk)
        return made

    def embed(self, image: Tensor) -> Tokens:
        state = self.trunk.begin(image)
        b, p = state.rest.shape[:2]
        size = state.x.new_ones(state.x.shape[:2], dtype=torch.float32)
        if not self.facts.turns:
            return Tokens(state.x, size, self.facts.prefix)
        patch = torch.arange(p, device=image.device, dtype=torch.float32).expand(b, -1)
        content = torch.full_like(patch, float(state.content))
        beside = torch.stack((patch, torch.zeros_like(patch), content), -1)
        return Tokens(state.x, size, self.facts.prefix, rope=beside, memory=state.rest)

    def attend(self, block: int, tokens: Tokens, bias: Tensor | None) -> Tokens:
        if not self.trunk.looked(block):
            return tokens._replace(x=self.plain.attend(block, tokens.x, bias))
        assert tokens.rope is not None and tokens.memory is not None
        patch, score, content = tokens.rope.unbind(-1)
        first = not self.trunk.looked(block - 1) or block - 1 in self.trunk.transitions
        state = self.trunk.attend(block, State(tokens.x, tokens.memory, score=None if first else score))
        return tokens._replace(x=state.x, rope=torch.stack((patch, state.score, content), -1))

    def mlp(self, block: int, tokens: Tokens) -> Tokens:
        tokens = tokens._replace(x=self.plain.mlp(block, tokens.x))
        return self.decide(block, tokens) if block in self.facts.turns and self.trunk.between else tokens

    def signals(self, block: int, tokens: Tokens, bias: Tensor | None, needs: frozenset[str]) -> Signals:
        return self.plain.signals(block, bias, needs)

    def reduce(self, block: int, tokens: Tokens, bias: Tensor | None) -> Tokens:
        if block not in self.facts.turns:
            return super().reduce(block, tokens, bias)
        return tokens if self.trunk.between else self.decide(block, tokens)

    def decide(self, block: int, tokens: Tokens) -> Tokens:
        """A transition, with what was asked of it."""
        turn, keep = self.turn(block), self.schedule.after[block] - tokens.prefix
        focus = keep if turn is None or turn.focus is None else turn.focus
        memory = tokens.memory
        assert memory is not None and tokens.rope is not None
        if turn is not None:
            tokens = turn(tokens._replace(memory=None), Signals(), keep)
        assert tokens.rope is not None
        uniform = self.content(block)
        state = State(
            tokens.x,
            memory,
            patch=tokens.rope[..., PATCH].long(),
            content=tokens.rope[..., CONTENT].long() if uniform is None else uniform,
        )
        state = self.trunk.enter(self.trunk.transitions.index(block), state, focus, None)
        if block == self.facts.turns[-1]:
            return tokens._replace(x=state.x, rope=None, memory=None)
        rope = tokens.rope
        if isinstance(state.content, Tensor):
            rope = torch.cat((rope[..., :CONTENT], state.content[..., None].to(rope.dtype)), -1)
        return tokens._replace(x=state.x, rope=rope, memory=memory)

    def turn(self, block: int) -> "Turn | None":
        """What was asked of a transition."""
        if (key := str(block)) not in self.reducers:
            return None
        found = self.reducers[key]
        return found if isinstance(found, Turn) else None

    def content(self, block: int) -> int | None:
        """How many contents all tokens have before a transition; None where they differ."""
        most, has, alike = len(self.trunk.contents) - 1, 0, True
        for i, t in enumerate(self.trunk.transitions):
            if t == block or (has == most and alike):
                break
            turn = self.turn(t)
            alike = turn is None or turn.focus is None  # if so, all that stay get what they lack
            has = min(i + 1, most)
        return has if alike else None

    def head(self, tokens: Tokens, weighted: bool) -> Tensor:
        # Pooled without a class token, a token counts as often as the patches it stands for.
        x = size_weighted(tokens, prefix_too=False) if weighted and not tokens.prefix else tokens.x
        return self.trunk.forward_head(State(x, x))

    def _reducer(self, step: Step) -> Reducer:
        turns = self.facts.turns
        if step.block not in turns:
            if turns and step.block < turns[-1]:
                raise InputError(
                    f"block {step.block} comes before the last decision of this {self.facts.family}; allowed: "
                    f"blocks {', '.join(map(str, turns))} by {TURN}, and later ones by any method"
                )
            return super()._reducer(step)
        if step.method != TURN:
            raise InputError(f"block {step.block} decides by relevance; allowed: method {TURN}, not {step.method!r}")
        if other := sorted(step.options.keys() - {"focus"}):
            raise InputError(f"option {other[0]!r} at block {step.block}; allowed: focus")
        focus, keep = step.options.get("focus"), step.tokens - self.facts.prefix
        if focus is not None and (not isinstance(focus, int) or isinstance(focus, bool) or not 1 <= focus <= keep):
            raise InputError(f"focus is {focus} at block {step.block}; allowed: 1 to {keep}")
        return Turn(focus)


@final
class Turn(Reducer):
    """The model's own decision: the most relevant stay, in falling order, so that those to be focused come first."""

    def __init__(self, focus: int | None) -> None:
        super().__init__()
        self.focus = focus

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        assert tokens.rope is not None
        return select(tokens, tokens.rope[..., SCORE].topk(keep, dim=1).indices)


def steps_of(model: Any, point: Counts) -> Iterable[Step]:
    """An operating point of fixed counts as the steps of a plan."""
    facts = Increments.describe(model)
    for i, block in enumerate(facts.turns):
        keep, focus = point.at(i)
        options: dict[str, bool | int | float | str] = {} if focus >= keep else {"focus": focus}
        yield Step(block=block, method=TURN, tokens=facts.prefix + keep, options=options)


def embeddings_of(model: Any) -> tuple[tuple[int, int, int], ...]:
    """What is embedded of a patch, and when: (transition, values, channels), first of all the coarse band.

    Of a linear lifting as it is deployed: from the pixels.
    """
    lifting, pixels = model.lifting, model.lifting.channels * model.patch_size**2
    coarse = pixels if lifting.linear and lifting.lowpass else model.embed.in_features
    details = zip(model.transitions, model.details, strict=False)  # one transition or more has nothing left to bring
    return (-1, coarse, model.embed.out_features), *(
        (t, pixels if lifting.linear else linear.in_features, linear.out_features) for t, linear in details
    )

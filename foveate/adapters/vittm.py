"""ViTTM: tokens are reduced in the process stream; the memory is read and written as ever."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from foveate.adapters._base import Backbone, known, on_grid
from foveate.adapters._timm import PlainBlocks, facts_of
from foveate.errors import InputError
from foveate.facts import Facts
from foveate.models.vittm.heads import Linear
from foveate.models.vittm.model import Streams
from foveate.plans import Step
from foveate.tokens import Signals, Tokens


class TwoStreams(Backbone):
    """Token reduction in the process stream of a ViTTM."""

    def __init__(self, model: nn.Module, steps: Sequence[Step]) -> None:
        super().__init__(model, steps)
        self.plain = PlainBlocks(self)
        # The write of a block comes after its reduction: there sizes count at once.
        self.writes_by_size = min((int(b) for b, r in self.reducers.items() if r.proportional), default=None)

    @classmethod
    def check(cls, model: Any) -> None:
        for embed in (model.process_embed, model.memory_embed):
            known(embed, (PatchEmbed,), "a patch embedding")
        PlainBlocks.check(model.blocks)
        for head in (*model.read, *model.write):
            known(head, (Linear,), "a read or write head")
        if kinds := {f.kind for f in (*model.read_fusion, *model.write_fusion)} - {"add"}:
            raise InputError(f"fusion {min(kinds)!r} is not supported; known here: add")
        if model.memory_mlp:
            raise InputError("an MLP on the memory is not supported here: its cost is in no formula")

    @classmethod
    def describe(cls, model: Any) -> Facts:
        memory, latent = model.memory_embed.num_patches, model.read[0].latent
        return facts_of(model, model.process_embed, memory=memory, latent=latent)

    def embed(self, image: Tensor) -> Tokens:
        x, memory = self.trunk.embed(image)
        size = torch.ones(x.shape[:2], dtype=torch.float32, device=x.device)
        return Tokens(x, size, self.facts.prefix, memory=memory)

    def attend(self, block: int, tokens: Tokens, bias: Tensor | None) -> Tokens:
        assert tokens.memory is not None
        x, memory = self.trunk.reading(block, Streams(tokens.x, tokens.memory))
        return tokens._replace(x=self.plain.attend(block, x, bias), memory=memory)

    def mlp(self, block: int, tokens: Tokens) -> Tokens:
        assert tokens.memory is not None
        x = self.plain.mlp(block, tokens.x)
        size = tokens.size if self.writes_by_size is not None and block >= self.writes_by_size else None
        x, memory = self.trunk.writing(block, Streams(x, tokens.memory), size)
        return tokens._replace(x=x, memory=memory)

    def signals(self, block: int, tokens: Tokens, bias: Tensor | None, needs: frozenset[str]) -> Signals:
        return self.plain.signals(block, bias, needs)

    def dense(self, tokens: Tokens) -> Tensor:
        """Both streams side by side where their grids agree: the memory has no norm of its own here."""
        assert tokens.memory is not None
        patches = on_grid(tokens._replace(x=self.trunk.process_norm(tokens.x)))
        return self.trunk.joined(Streams(patches, tokens.memory))

    def head(self, tokens: Tokens, weighted: bool) -> Tensor:
        assert tokens.memory is not None
        streams = Streams(tokens.x, tokens.memory)
        return self.trunk.forward_head(streams, size=tokens.size if weighted else None)

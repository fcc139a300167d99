"""ViTTM: tokens are reduced in the process stream; the memory is read and written as ever."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from foveate.adapters._base import Facts, Reduced, Tap, known
from foveate.adapters._timm import MLPS, signals_of, taps_of
from foveate.errors import InputError
from foveate.models.vittm.heads import Linear
from foveate.models.vittm.model import Streams
from foveate.plans import Step
from foveate.tokens import Signals, Tokens


class TwoStreams(Reduced):
    """Token reduction in the process stream of a ViTTM."""

    def __init__(self, model: nn.Module, steps: Sequence[Step]) -> None:
        super().__init__(model, steps)
        self.taps: dict[int, tuple[Tap, Tap, Tap]] = {
            int(name): taps_of(self.host.blocks[int(name)].attn)
            for name, reducer in self.reducers.items()
            if reducer.needs
        }
        # The write of a block comes after its reduction: there sizes count at once.
        self.writes_by_size = min((int(b) for b, r in self.reducers.items() if r.proportional), default=None)

    @classmethod
    def check(cls, model: Any) -> None:
        for embed in (model.process_embed, model.memory_embed):
            known(embed, (PatchEmbed,), "a patch embedding")
        for i, block in enumerate(model.blocks):
            known(block, (Block,), f"block {i}")
            known(block.attn, (Attention,), f"the attention of block {i}")
            known(block.mlp, MLPS, f"the MLP of block {i}")
        for head in (*model.read, *model.write):
            known(head, (Linear,), "a read or write head")
        if kinds := {f.kind for f in (*model.read_fusion, *model.write_fusion)} - {"add"}:
            raise InputError(f"fusion {min(kinds)!r} is not supported; known here: add")
        if model.memory_mlp:
            raise InputError("an MLP on the memory is not supported here: its cost is in no formula")

    @classmethod
    def describe(cls, model: Any) -> Facts:
        embed = model.process_embed
        return Facts(
            family=type(model).__name__,
            tokens=embed.num_patches,
            depth=model.depth,
            prefix=0,
            width=model.embed_dim,
            heads=model.blocks[0].attn.num_heads,
            grid=tuple(embed.grid_size),
            image=(embed.proj.in_channels, *embed.img_size),
            patch=tuple(embed.patch_size),
            classes=model.num_classes,
            has_class_token=False,
            memory=model.memory_embed.num_patches,
            latent=model.read[0].latent,
        )

    def embed(self, image: Tensor) -> Tokens:
        x, memory = self.host.embed(image)
        size = torch.ones(x.shape[:2], dtype=torch.float32, device=x.device)
        return Tokens(x, size, self.facts.prefix, memory=memory)

    def attend(self, block: int, tokens: Tokens, bias: Tensor | None) -> Tokens:
        assert tokens.memory is not None
        x, memory = self.host.reading(block, Streams(tokens.x, tokens.memory))
        b = self.host.blocks[block]
        return tokens._replace(x=x + b.drop_path1(b.ls1(b.attn(b.norm1(x), attn_mask=bias))), memory=memory)

    def mlp(self, block: int, tokens: Tokens) -> Tokens:
        assert tokens.memory is not None
        b = self.host.blocks[block]
        x = tokens.x + b.drop_path2(b.ls2(b.mlp(b.norm2(tokens.x))))
        size = tokens.size if self.writes_by_size is not None and block >= self.writes_by_size else None
        x, memory = self.host.writing(block, Streams(x, tokens.memory), size)
        return tokens._replace(x=x, memory=memory)

    def signals(self, block: int, tokens: Tokens, bias: Tensor | None, needs: frozenset[str]) -> Signals:
        attn, share = self.host.blocks[block].attn, block / self.facts.depth
        return signals_of(self.taps[block], attn.scale, bias, needs, share) if needs else Signals(depth=share)

    def head(self, tokens: Tokens, weighted: bool) -> Tensor:
        assert tokens.memory is not None
        streams = Streams(tokens.x, tokens.memory)
        return self.host.forward_head(streams, size=tokens.size if weighted else None)

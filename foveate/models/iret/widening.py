"""From one stage of blocks to the next: of the same width, or wider where detail comes in.

IRET's abstract states that tokens start with an embedding much smaller than usual, which feeds the first few layers,
and that attended tokens then get more. How a token widens is our reconstruction, in three kinds:

    residual   x' = x                               one ViT's blocks throughout
               x'_i += A(E(detail of i))
    stitched   x' = Linear(x)                       a narrow ViT's first blocks, a wide one's last
               x'_i += A(E(detail of i))
    concat     x' = [x ; none + position]           no pretrained ViT's
               x'_i += [0 ; E(detail of i)]
               x' = Linear(LayerNorm(x'))

`x_i` are the focused tokens alone. Residual decides between attention and MLP, as tokens are reduced elsewhere; the
others between two blocks, so that a stage ends as it began.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple, final

import torch
from timm.layers.weight_init import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.errors import InputError, one_of
from foveate.models.blocks import LayerNorm
from foveate.models.iret.lifting import Bands

CONTENTS: dict[int, tuple[tuple[str, ...], ...]] = {
    2: (("ll",), ("lh", "hl", "hh")),
    3: (("ll",), ("lh", "hl"), ("hh",)),
    4: (("ll",), ("lh",), ("hl",), ("hh",)),
}


class Widening(nn.Module, ABC):
    """What a transition does to tokens that stay. Abstract; the kinds are final."""

    between: ClassVar[bool] = True  # two blocks, behind the MLP of the first; or inside one, before its MLP
    admits: ClassVar[bool] = True  # detail goes through a learnt map of its own before it is added

    def __init__(self, before: int, after: int, patches: int, prefix: int) -> None:
        """Widths of the stages, and of how many patches and prefix tokens an image has at the start."""
        super().__init__()

    @abstractmethod
    def forward(self, x: Tensor, patch: Tensor | None) -> Tensor:
        """x [B prefix+K before] -> [B prefix+K after]; `patch` [B K] which each token is, None: all, in order."""

    def settle(self, x: Tensor) -> Tensor:
        """What is done once the focused have their detail: [B N after] -> the same shape."""
        return x


@final
class Residual(Widening):
    between = False

    def forward(self, x: Tensor, patch: Tensor | None) -> Tensor:
        return x


@final
class Stitched(Widening):
    """A linear map, as between the networks of Pan et al., "Stitchable Neural Networks" (arXiv:2302.06586)."""

    def __init__(self, before: int, after: int, patches: int, prefix: int) -> None:
        super().__init__(before, after, patches, prefix)
        self.map = nn.Linear(before, after)
        nn.init.orthogonal_(self.map.weight)  # no token longer or shorter than it was
        nn.init.zeros_(self.map.bias)

    def forward(self, x: Tensor, patch: Tensor | None) -> Tensor:
        return self.map(x)


@final
class Concat(Widening):
    """New channels beside the old ones: what tells of no detail, where the patch is, and room for detail."""

    admits = False

    def __init__(self, before: int, after: int, patches: int, prefix: int) -> None:
        super().__init__(before, after, patches, prefix)
        more = after - before
        self.none = nn.Parameter(torch.zeros(more))
        self.pos_embed = nn.Parameter(torch.zeros(patches, more))
        self.cls_token = nn.Parameter(torch.zeros(prefix, more))
        self.norm = LayerNorm(after)
        self.mix = identity(after)
        for position in (self.pos_embed, self.cls_token):
            trunc_normal_(position, std=0.02)

    def forward(self, x: Tensor, patch: Tensor | None) -> Tensor:
        where = self.pos_embed.expand(len(x), -1, -1) if patch is None else F.embedding(patch, self.pos_embed)
        return torch.cat((x, torch.cat((self.cls_token.expand(len(x), -1, -1), self.none + where), 1)), 2)

    def settle(self, x: Tensor) -> Tensor:
        return self.mix(self.norm(x))


KINDS: dict[str, type[Widening]] = {"residual": Residual, "stitched": Stitched, "concat": Concat}


class Stages(NamedTuple):
    """Blocks of one width each, and what lies between them."""

    kind: type[Widening]
    transitions: tuple[int, ...]
    contents: tuple[tuple[str, ...], ...]  # bands that the first stage, and each detail, holds
    steps: tuple[tuple[int, int], ...]  # widths before and after every transition
    widths: tuple[int, ...]  # of every block
    heads: tuple[int, ...]  # of every block
    columns: tuple[tuple[int, int], ...]  # channels that each detail is added to, first and behind the last


def stages(
    kind: str,
    widths: int | Sequence[int],
    heads: int | Sequence[int],
    depth: int,
    transitions: Sequence[int] | None,
    contents: Sequence[Sequence[str]] | None,
) -> Stages:
    """
    Raises:
        InputError: for transitions out of order or range, bands that are not all there once, or widths, heads or
            details of another number than there are stages.
    """
    if kind not in KINDS:
        raise one_of("widening", kind, KINDS)
    widths, heads = ((n,) if isinstance(n, int) else tuple(n) for n in (widths, heads))
    if transitions is None:
        count = 3 if kind == "residual" else len(widths)
        transitions = [depth * (s + 1) // count - 1 for s in range(count - 1)]
    turns = tuple(transitions)
    if list(turns) != sorted(set(turns)) or not all(-1 <= t < depth for t in turns):
        raise InputError(f"transitions are {turns}; allowed: rising blocks from -1 to {depth - 1}")
    between = KINDS[kind].between
    count = len(turns) + 1 if between else 1
    if len(widths) != count or sorted(set(widths)) != list(widths) or (between and not turns):
        several = f"{count} rising widths for transitions {turns}" if turns else "two rising widths or more"
        raise InputError(
            f"embed_dim is {widths} with widening {kind!r}; allowed: {several if between else 'one width'}"
        )
    if between and turns[-1] == depth - 1:
        raise InputError(f"transitions are {turns} with widening {kind!r}; allowed: up to {depth - 2}")
    if kind == "stitched" and count != 2:
        raise InputError(f"embed_dim is {widths} with widening {kind!r}; allowed: two widths, of one ViT each")
    if len(heads) not in (1, count) or any(w % h for w, h in zip(widths, heads * count, strict=False)):
        raise InputError(f"num_heads is {heads}; allowed: one number or {count}, that divide {widths}")
    if between and count not in CONTENTS:
        raise InputError(f"embed_dim is {widths}; allowed: 2 to 4 widths, as there are four bands")
    bands = CONTENTS[count if between else 2] if contents is None else tuple(map(tuple, contents))
    if sorted(b for c in bands for b in c) != sorted(Bands._fields) or bands[0] != ("ll",):
        raise InputError(f"contents are {bands}; allowed: ll, then the bands lh, hl and hh, each once")
    if len(bands) - 1 > len(turns) or (between and len(bands) != count):
        raise InputError(f"{len(bands) - 1} details for {len(turns)} transitions")
    stage = [sum(t < block for t in turns) if between else 0 for block in range(depth)]
    steps = tuple(pairwise(widths)) if between else ((widths[0], widths[0]),) * len(turns)
    new = kind == "concat"  # each detail has channels of its own
    return Stages(
        KINDS[kind], turns, bands, steps,
        widths=tuple(widths[s] for s in stage),
        heads=tuple((heads * count)[s] for s in stage),
        columns=steps if new else tuple((0, widths[-1]) for _ in bands[1:]),
    )  # fmt: skip


def identity(width: int) -> nn.Linear:
    """A linear map that changes nothing before it is trained."""
    made = nn.Linear(width, width)
    nn.init.eye_(made.weight)
    nn.init.zeros_(made.bias)
    return made

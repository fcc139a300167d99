"""How many tokens leave every block. Plain integers: static shapes, so every compiler and exporter takes them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Self

from foveate.errors import InputError


@dataclass(frozen=True)
class Schedule:
    """Token counts of a model, prefix tokens included.

    `start` tokens enter block 0; `after[l]` are left when block l's reducer, between its attention and its MLP, is
    done. So block l runs attention on `before[l]` tokens and its MLP on `after[l]`.
    """

    start: int
    after: tuple[int, ...]
    prefix: int = 1

    def __post_init__(self) -> None:
        if not self.after:
            raise InputError("a schedule needs at least one block; got none")
        for block, (a, b) in enumerate(pairwise((self.start, *self.after))):
            if b > a:
                raise InputError(f"a schedule cannot grow: block {block} is asked to make {b} tokens of {a}")
        if (last := self.after[-1]) < self.start and last < self.prefix + 2:
            raise InputError(
                f"a schedule must leave {self.prefix} prefix tokens and at least 2 patches "
                f"({self.prefix + 2} tokens); asked for {last}"
            )

    @property
    def before(self) -> tuple[int, ...]:
        """Tokens that enter every block (and its attention)."""
        return (self.start, *self.after[:-1])

    @property
    def depth(self) -> int:
        return len(self.after)

    @property
    def cuts(self) -> dict[int, int]:
        """{block: tokens after it} of the blocks that reduce."""
        return {i: b for i, (a, b) in enumerate(zip(self.before, self.after, strict=True)) if b < a}

    @classmethod
    def full(cls, start: int, depth: int, prefix: int = 1) -> Self:
        """Nothing is reduced."""
        return cls(start, (start,) * depth, prefix)

    @classmethod
    def cut(cls, start: int, depth: int, cuts: Mapping[int, int], prefix: int = 1) -> Self:
        """Reduce to `cuts[block]` tokens in the given 0-based blocks and hold the count between them."""
        if bad := [b for b in cuts if not 0 <= b < depth]:
            raise InputError(f"block {bad[0]} does not exist: the model has blocks 0 to {depth - 1}")
        after, now = [], start
        for block in range(depth):
            now = cuts.get(block, now)
            after.append(now)
        return cls(start, tuple(after), prefix)

    @classmethod
    def remove(cls, start: int, counts: Sequence[int], prefix: int = 1) -> Self:
        """Remove `counts[l]` tokens in block l, as ToMe does: clipped to half of the patches and to two left."""
        after, now = [], start
        for count in counts:
            patches = now - prefix
            now -= min(count, patches // 2, max(0, patches - 2))
            after.append(now)
        return cls(start, tuple(after), prefix)

    @classmethod
    def tome(cls, start: int, depth: int, r: int, inflect: float = 0.0, prefix: int = 1) -> Self:
        """ToMe's schedules: `r` tokens a block, or linear from r(1 - inflect) to r(1 + inflect)."""
        low = int(r * (1 - inflect))
        step = (2 * r - 2 * low) / max(1, depth - 1)
        return cls.remove(start, [int(low + step * i) for i in range(depth)], prefix)

    @classmethod
    def keep_ratio(
        cls, start: int, depth: int, ratio: float, blocks: Sequence[int], prefix: int = 1, fused: bool = True
    ) -> Self:
        """EViT's schedule: ceil(ratio x patches) kept in each of `blocks`, plus one fused token where `fused`."""
        cuts, now = {}, start
        for block in sorted(blocks):
            now = prefix + math.ceil(ratio * (now - prefix)) + fused
            cuts[block] = now
        return cls.cut(start, depth, cuts, prefix)

    @classmethod
    def shrink(cls, start: int, depth: int, ratio: float, prefix: int = 1) -> Self:
        """PiToMe's schedule: every block removes floor(P - ratio x P) of its P patches."""
        after, now = [], start
        for _ in range(depth):
            patches = now - prefix
            now -= math.floor(patches - patches * ratio)
            after.append(now)
        return cls(start, tuple(after), prefix)

    @classmethod
    def powers(cls, start: int, depth: int, ratio: float, blocks: Sequence[int], prefix: int = 1) -> Self:
        """Top-K's and DynamicViT's schedule: at stage s, int(ratio^s x the patches of the start) are kept.

        DynamicViT cuts before a block; that is after the block in front of it, but for that block's MLP.
        """
        patches = start - prefix
        stages = enumerate(sorted(blocks), 1)
        return cls.cut(start, depth, {block: prefix + int(ratio**s * patches) for s, block in stages}, prefix)

    @classmethod
    def stages(cls, start: int, depth: int, r: int, blocks: Sequence[int], prefix: int = 1) -> Self:
        """PPT's schedule: `r` tokens removed in each of `blocks`, clipped to half of the patches."""
        return cls.remove(start, [r if block in blocks else 0 for block in range(depth)], prefix)

    @classmethod
    def pomt(cls, start: int, depth: int, r: int, block: int = 3, prefix: int = 1) -> Self:
        """POMT's schedule: all `r` tokens removed in one block."""
        return cls.cut(start, depth, {block: start - r}, prefix)

    @classmethod
    def capped(cls, start: int, counts: Sequence[int], prefix: int = 1) -> Self:
        """DiffRate's lists: tokens after every block, none more than before it."""
        return cls(start, tuple(accumulate((start, *counts), min))[1:], prefix)


def macs(
    schedule: Schedule,
    width: int | Sequence[int],
    *,
    patches: int,
    patch_size: int,
    classes: int = 1000,
    mlp_ratio: float = 4.0,
) -> int:
    """Multiply-accumulates of one image through a plain ViT, reduction itself not counted (pomt.md, section 4.1).

    F = 3 p^2 P C + sum_l (4 n_l C^2 + 2 n_l^2 C + 2 mlp_ratio m_l C^2) + C classes, with n_l tokens in the attention
    and m_l in the MLP of block l. `width`: C, or that of every block where it changes (see `block_macs`).
    `foveate.adapters.macs.macs_of` counts a real model with torch's FlopCounterMode.
    """
    widths = widths_of(schedule, width)
    blocks = sum(block_macs(schedule, widths, mlp_ratio=mlp_ratio))
    return 3 * patch_size**2 * patches * widths[0] + blocks + widths[-1] * classes


def block_macs(
    schedule: Schedule,
    width: int | Sequence[int],
    *,
    mlp_ratio: float = 4.0,
    attention: Sequence[tuple[int, int]] = (),
) -> list[int]:
    """Multiply-accumulates of every block by itself, by the formula of `macs`.

    A block behind which the width changes has its MLP on the tokens that enter it: they leave between the two blocks.
    `attention`: of every block between its projections, (a token, a pair of tokens); by default softmax's (0, 2 C).
    """
    widths, found = widths_of(schedule, width), []
    between = attention or [(0, 2 * c) for c in widths]
    rows = zip(widths, [*widths[1:], widths[-1]], schedule.before, schedule.after, between, strict=True)
    for c, then, n, m, (once, pairs) in rows:
        in_mlp = m if c == then else n
        found.append(4 * n * c**2 + once * n + pairs * n**2 + round(2 * mlp_ratio * in_mlp * c**2))
    return found


def widths_of(schedule: Schedule, width: int | Sequence[int]) -> Sequence[int]:
    """The width of every block: [L]."""
    return [width] * schedule.depth if isinstance(width, int) else width


def exchange_macs(schedule: Schedule, width: int, *, heads: int, memory: int, latent: int) -> int:
    """Multiply-accumulates of ViTTM's linear reads and writes with `memory` tokens (vittm.md, section 5.2).

    Read, before the attention of a block with n tokens, c = `latent`: c C (n + M) + C^2 M + c (C / H) (n + M) + c n;
    write, after its MLP, C^2 for each of the m tokens there instead, and c M at the end.
    """
    total = 0
    for n, m in zip(schedule.before, schedule.after, strict=True):
        for target, source in ((n, memory), (memory, m)):
            total += latent * (width + width // heads) * (target + source) + width**2 * source + latent * target
    return total

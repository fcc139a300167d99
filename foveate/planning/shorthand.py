"""A method's usual settings as steps: so many tokens a block, or a share of them at a few blocks."""

import math
from collections.abc import Sequence

from torch import nn

from foveate.adapters import describe
from foveate.errors import InputError
from foveate.methods import METHODS
from foveate.plans import Step
from foveate.schedule import Schedule


def steps(
    model: nn.Module,
    method: str,
    *,
    r: int | None = None,
    ratio: float | None = None,
    blocks: Sequence[int] | None = None,
) -> tuple[Step, ...]:
    """The steps of `method` on `model`, for `foveate.apply` and `foveate.Plan`.

    Args:
        r: tokens fewer in each block (ToMe's), or in each of `blocks`; in none below two patches, and no more than the
            method can take at once.
        ratio: share of the patches kept in each of `blocks`, by default at 1/4, 1/2 and 3/4 of the depth (EViT's).

    Raises:
        InputError: an unknown method, not one of `r` and `ratio`, a value out of range.

    >>> import timm
    >>> vit = timm.create_model("vit_tiny_patch16_224")
    >>> [s.tokens for s in steps(vit, "tome", r=8)][:3]
    [189, 181, 173]
    >>> [(s.block, s.tokens) for s in steps(vit, "topk", ratio=0.7)]
    [(3, 139), (6, 98), (9, 69)]
    """
    facts, most = describe(model), METHODS[method].max_drop
    if (r is None) == (ratio is None):
        raise InputError("give r (tokens fewer a block) or ratio (share of patches kept), one of them")
    if r is not None and r < 1:
        raise InputError(f"r is {r}; allowed: 1 or more")
    if ratio is not None and not 0 < ratio < 1:
        raise InputError(f"ratio is {ratio:g}; allowed: above 0 and below 1")
    where = list(blocks) if blocks is not None else list(range(facts.depth)) if r is not None else facts.quarters
    if bad := [b for b in where if not 0 <= b < facts.depth]:
        raise InputError(f"block {bad[0]}; allowed: 0 to {facts.depth - 1}")
    counts, now = dict[int, int](), facts.patches
    for block in sorted(set(where)):
        wanted = now - r if r is not None else math.ceil(round(now * (ratio or 1.0), 9))
        left = max(wanted, now - int(now * most), 2)
        if left < now:
            counts[block] = facts.prefix + left
            now = left
    return tuple(
        Step(block=block, method=method, tokens=n)
        for block, n in Schedule.cut(facts.tokens, facts.depth, counts, facts.prefix).cuts.items()
    )

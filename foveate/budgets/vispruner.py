"""VisPruner: half of the tokens by attention, the other half by being unlike each other.

Zhang et al., "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs", ICCV 2025.
What attention leaves is split into cells at even and at odd places; the eight most similar to one of the other half
go, until as many are left as are wanted. Parts share the budget evenly.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from foveate.budgets._base import BUDGETS, Allocator, Sight, evenly, highest, unit

AT_ONCE = 8


@final
@BUDGETS.register("vispruner")
class VisPruner(Allocator):
    needs = frozenset({"late", "features"})

    def allocate(self, sight: Sight, tokens: int) -> Sequence[int]:
        return evenly(sight.tiling, tokens)

    def rank(self, sight: Sight, cells: Tensor, tokens: int) -> Tensor:
        assert sight.late is not None and sight.features is not None
        best = highest(sight.late[cells], cells)
        important = tokens - tokens // 2
        rest = best[important:].sort().values
        return torch.cat([best[:important], unlike(rest, sight.features, tokens - important)])


def unlike(cells: Tensor, features: Tensor, keep: int) -> Tensor:
    """`keep` of `cells` [m]: those most similar to another one are removed, a few at a time."""
    vectors = unit(features[cells])
    left = torch.arange(len(cells), device=cells.device)
    while len(left) > keep:
        even, odd = left[::2], left[1::2]
        if not len(odd):
            return cells[left[:keep]]
        likest = (vectors[even] @ vectors[odd].T).amax(1)
        fewer = min(AT_ONCE, len(left) - keep, len(even))
        stays = torch.ones(len(left), dtype=torch.bool, device=left.device)
        stays[likest.topk(fewer).indices * 2] = False
        left = left[stays]
    return cells[left]

"""PruneSID, a reconstruction: groups by principal components, and in each the most attended that are no repetition.

Fang et al., "Prune Redundancy, Preserve Essence: Vision Token Compression in VLMs via Synergistic
Importance-Diversity", ICLR 2026 (arXiv 2603.09480). From its abstract alone: which components, how many and which
threshold are our reading, and figures of ours are none of the paper's. A cell belongs to the principal component on
which it lies farthest out; a group's tokens follow its size; within a group the most attended cell goes first, and
those more similar to one that is in than the part's cells are on average come after all that are not.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from foveate.budgets._base import BUDGETS, Allocator, Sight, evenly, highest, unit
from foveate.budgets.allocation import waterfill

GROUP = 4  # tokens a group, on average


@final
@BUDGETS.register("prunesid")
class PruneSID(Allocator):
    needs = frozenset({"late", "features"})

    def allocate(self, sight: Sight, tokens: int) -> Sequence[int]:
        return evenly(sight.tiling, tokens)

    def rank(self, sight: Sight, cells: Tensor, tokens: int) -> Tensor:
        assert sight.late is not None and sight.features is not None
        vectors = unit(sight.features[cells])
        group = principal_groups(vectors, max(1, min(tokens // GROUP, *vectors.shape)))
        alike = vectors @ vectors.T
        common = float(alike.mean())
        members = [(group == g).nonzero().squeeze(1) for g in range(int(group.max()) + 1)]
        given = waterfill(tokens, [float(len(m)) for m in members], [len(m) for m in members])
        chosen = []
        for m, n in zip(members, given, strict=True):
            best = highest(sight.late[cells[m]], m)
            chosen.append(best[unrepeated(alike[best][:, best], common)][:n])
        return cells[highest(sight.late[cells[torch.cat(chosen)]], torch.cat(chosen))]


def principal_groups(vectors: Tensor, count: int) -> Tensor:
    """The principal component on which each row lies farthest from the mean: [m D] -> [m]."""
    centred = vectors - vectors.mean(0)
    left, strength, _ = torch.linalg.svd(centred, full_matrices=False)
    return (left[:, :count] * strength[:count]).abs().argmax(1)


def unrepeated(alike: Tensor, limit: float) -> Tensor:
    """Indices of rows in falling importance: first those unlike every one that is in, then the rest. [m m] -> [m]"""
    first, rest = [], []
    for n in range(len(alike)):
        (rest if first and float(alike[n, first].max()) > limit else first).append(n)
    return torch.tensor(first + rest, dtype=torch.long, device=alike.device)  # of an empty group, too

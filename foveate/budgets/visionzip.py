"""VisionZip: the most attended cells stay, the others are averaged into a few that lie between.

Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models", CVPR 2025. Of 64 tokens a part,
54 are dominant (attention of the class token, or received attention) and 10 contextual: every so-many-th of what is
left is a target, each other cell goes to the target whose keys are most like its own, and a target gets the mean of
its group added, as the released code does. There, contextual tokens of a tiled picture lose their place in the mosaic
and are put behind it; here they stay where the target is, and rows keep their newlines.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from foveate.budgets._base import BUDGETS, DROPPED, Allocator, Kept, Sight, cells_of, evenly, highest, unit

CONTEXTUAL = 10 / 64


@final
@BUDGETS.register("visionzip")
class VisionZip(Allocator):
    needs = frozenset({"late", "keys", "features"})

    def allocate(self, sight: Sight, tokens: int) -> Sequence[int]:
        return evenly(sight.tiling, tokens)

    def rank(self, sight: Sight, cells: Tensor, tokens: int) -> Tensor:
        assert sight.late is not None
        best = highest(sight.late[cells], cells)
        dominant = tokens - round(tokens * CONTEXTUAL)
        rest, targets = best[dominant:].sort().values, tokens - dominant
        step = max(1, len(rest) // max(1, targets))
        return torch.cat([best[:dominant], rest[::step][:targets]])

    def merged(self, kept: Kept, sight: Sight) -> Kept:
        assert sight.late is not None and sight.keys is not None
        keys, stays = unit(sight.keys), torch.zeros(len(sight.keys), dtype=torch.bool, device=kept.cells.device)
        stays[kept.cells] = True
        into = torch.full((len(stays),), DROPPED, device=kept.cells.device)
        into[kept.cells] = torch.arange(len(kept.cells), device=into.device)
        slot = into.clone()
        shared = evenly(kept.tiling, len(kept.rows))
        for cells, tokens in zip(cells_of(kept.tiling), shared, strict=True):
            cells = cells.to(into.device)
            here = cells[stays[cells]]
            dominant = tokens - round(tokens * CONTEXTUAL)
            targets = highest(sight.late[here], here)[dominant:]
            gone = cells[~stays[cells]]
            if len(targets) and len(gone):
                into[gone] = slot[targets[(keys[gone] @ keys[targets].T).argmax(1)]]
        return replace(kept, into=into, added=True)

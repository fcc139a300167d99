"""HiRED's shares, less for the whole view, and within a part what is attended to and not a repetition. Ours.

HiRED gives half of a budget to the whole view. Here that gets a fifth: a tile shows more of what is small, and on
canvases kept for development a fifth answered more (61.9 of 100 questions at 5 % of the tokens, not 56.6).
Attention alone keeps neighbours that say the same; diversity alone keeps what is odd, attended to or not. A cell's
score here is its attention times how unlike it is to every cell of its part that is attended to more: one product of
matrices, no loop over tokens, so that it costs as much on a GPU as it should. What stays keeps the position that it
had: where something is on a picture is told by nothing else once rows have gaps.
"""

from collections.abc import Sequence
from typing import final

from torch import Tensor

from foveate.budgets._base import BUDGETS, Allocator, Positions, Sight, highest, unit
from foveate.budgets.content import checked_alpha, shared_by_content
from foveate.budgets.count import Newlines


@final
@BUDGETS.register("hired-diverse")
class Diverse(Allocator):
    needs = frozenset({"early", "late", "features"})
    published = False  # ours
    positions = "original"

    def __init__(
        self, *, alpha: float = 0.2, newlines: Newlines | None = None, positions: Positions | None = None
    ) -> None:
        """`alpha`: the share of the whole view where there are tiles, 0 to 1."""
        super().__init__(newlines=newlines, positions=positions)
        self.alpha = checked_alpha(alpha)

    def allocate(self, sight: Sight, tokens: int) -> Sequence[int]:
        return shared_by_content(sight, tokens, self.alpha, paid=self.newlines != "none")

    def rank(self, sight: Sight, cells: Tensor, tokens: int) -> Tensor:
        assert sight.late is not None and sight.features is not None
        best = highest(sight.late[cells], cells)
        vectors = unit(sight.features[best])
        repeated = (vectors @ vectors.T).tril(-1).amax(1).clamp(0, 1)
        return highest(sight.late[best] * (1 - repeated), best)

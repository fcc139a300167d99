"""ToFu: prune the most similar tokens early, merge them late (Kim et al., WACV 2024, arXiv:2312.01026).

Pairs are matched as ToMe matches them. In the first half of the depth the proposing token is dropped and its partner
stays as it is; in the second half the two are merged by MLERP, their mean (weighted by size) stretched to the larger
of their norms: x / |x| max(|x_a|, |x_b|). Where several tokens move into one, the largest norm of them all is taken.
There is no public code by the authors. Inferred, not stated in what we could read: means weighted by size, and
attention that weighs by size as ToMe's does (`proportional`).
"""

from typing import final

from foveate.methods._base import METHODS, Reducer, mean_keys, merge, pairs, select
from foveate.tokens import Signals, Tokens


@final
@METHODS.register("tofu")
class ToFu(Reducer):
    needs = frozenset({"keys"})
    max_drop = 0.5  # as ToMe's

    def __init__(self, *, proportional: bool = True) -> None:
        super().__init__()
        self.proportional = proportional

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        anchor, moved, into = pairs(mean_keys(signals), tokens.patches - keep, tokens.prefix)
        if signals.depth < 0.5:
            return select(tokens, anchor)
        return merge(tokens, anchor, moved, into, keep_norm=True)

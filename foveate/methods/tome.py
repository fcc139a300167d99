"""ToMe: merge the most similar pairs of tokens (Bolya et al., ICLR 2023, arXiv:2210.09461, section 3).

Patches are split by turns into A and B; every token of A proposes its most similar token of B, by the cosine of their
mean keys; the best proposals are merged, weighted by size. Later attention adds log(size) to the keys' logits.
Differs from the public code: register tokens are never merged, and the split starts at the first patch, not at the
class token, which changes nothing but which patches stand in A.
"""

from typing import final

from foveate.methods._base import METHODS, Merger, mean_keys, merge, pairs
from foveate.tokens import Signals, Tokens


@final
@METHODS.register("tome")
class ToMe(Merger):
    needs = frozenset({"keys"})
    max_drop = 0.5  # every merge needs a partner in B

    def __init__(self, *, proportional: bool = True) -> None:
        super().__init__()
        self.proportional = proportional

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        return merge(tokens, *pairs(mean_keys(signals), tokens.patches - keep, tokens.prefix))

"""PPT: prune where scores differ, merge where they do not (Wu et al., arXiv:2310.01812).

The score is ATS's: the class token's attention times the length of the value, summing to 1 over an image's patches.
An image whose scores have a variance of `threshold` or more loses its lowest; in any other the most similar pairs are
merged as ToMe merges them. Later attention adds log(size) to the keys' logits.
Differs from the public code, which splits the batch: here both ways are worked out as assignments, and every image
takes its own, so shapes stay fixed. The variance is the unbiased one.
"""

from typing import final

import torch

from foveate.methods._base import METHODS, Reducer, class_score, highest, mean_keys, merge, pairs
from foveate.tokens import Signals, Tokens


@final
@METHODS.register("ppt")
class PPT(Reducer):
    needs = frozenset({"class_row", "keys", "values"})
    max_drop = 0.5  # as ToMe's

    def __init__(self, *, threshold: float = 7e-5, proportional: bool = True) -> None:
        super().__init__()
        self.threshold = threshold
        self.proportional = proportional

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        score = class_score(tokens, signals)
        anchor, moved, into = pairs(mean_keys(signals), tokens.patches - keep, tokens.prefix)
        # The variance by its definition, the mean being 1/P because the scores sum to 1.
        spread = score.square().sum(1, keepdim=True)
        prune = spread >= self.threshold * (tokens.patches - 1) + 1 / tokens.patches
        # A pruned image merges nothing: what `moved` holds then is either an anchor or dropped.
        return merge(
            tokens,
            torch.where(prune, highest(score, keep), anchor),
            moved,
            into,
            dropped=prune,
        )

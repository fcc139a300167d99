"""Foveal merging: like ToMe, but what the class token looks at stays sharp. Ours, not published.

From ToMe (arXiv:2210.09461) it borrows the split by turns, the proposal of every token of A to its most similar token
of B, and sizes: weighted means, proportional attention. Two things differ. Similarity is the correlation of the tokens
themselves, not of their keys, since tokens tell what is lost by averaging (a mixture of both did no better, and costs
more). And proposals are not taken by similarity alone: a merge costs (1 - similarity) x (class attention of the
proposing token)^power, so that a background token gives way to an unlike neighbour before the subject does to a like
one. To weigh a merge by information is MCTF's idea (CVPR 2024), to let the least attended go first DiffRate's (ICCV
2023). It is not for every schedule: merging 8 tokens in all blocks of a ViT-Tiny, the first two included, cost more
than by ToMe; three merges after blocks 4, 7 and 10 cost half. Presumably class attention says little yet in the first
blocks. Figures: benchmarks/results/vit_tiny_kl.json.
"""

from typing import final

import torch
from torch.nn.functional import layer_norm

from foveate.methods._base import METHODS, Merger, accept, merge, propose
from foveate.tokens import Signals, Tokens


@final
@METHODS.register("foveal")
class Foveal(Merger):
    needs = frozenset({"class_row"})
    max_drop = 0.5  # every merge needs a partner in B
    proportional = True
    published = False

    def __init__(self, *, power: float = 0.7) -> None:
        """
        Args:
            power: how much the class token's attention protects; 0 leaves similarity alone.
        """
        super().__init__()
        self.power = power

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        assert signals.class_row is not None
        p, width = tokens.prefix, tokens.x.shape[-1]
        best, partner = propose(layer_norm(tokens.x.float(), (width,)), p)
        # With proportional attention the class row grows with a token's size: a cluster is not given away lightly.
        price = signals.class_row.mean(1, dtype=torch.float32)[:, p::2] ** self.power
        return merge(tokens, *accept((best / width - 1) * price, partner, tokens.patches, tokens.patches - keep))

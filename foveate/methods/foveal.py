"""Foveal merging: like ToMe, but what the class token looks at stays sharp. Ours, not published.

From ToMe (arXiv:2210.09461) it borrows the split by turns, the proposal of every token of A to its most similar token
of B, and sizes: weighted means, proportional attention. Two things differ. Similarity mixes two cosines, of the keys
and of the tokens themselves, since keys tell where to look and tokens what is lost by averaging. And proposals are not
taken by similarity alone: a merge costs (1 - similarity) x (class attention of the proposing token)^power, so that a
background token gives way to an unlike neighbour before the subject does to a like one. To weigh a merge by information
is MCTF's idea (CVPR 2024), to let the least attended go first DiffRate's (ICCV 2023). It is
not for every schedule: merging 8 tokens in all blocks of a ViT-Tiny, the first two included, cost more by this method
than by ToMe (KL 0.054 and 0.040); three merges after blocks 4, 7 and 10 cost half (0.020 and 0.038). Presumably class
attention says little yet in the first blocks. Figures: benchmarks/results/vit_tiny_kl.json.
"""

from typing import final

import torch
from torch.nn.functional import normalize

from foveate.methods._base import METHODS, Merger, mean_keys, merge
from foveate.tokens import Signals, Tokens


@final
@METHODS.register("foveal")
class Foveal(Merger):
    needs = frozenset({"keys", "class_row"})
    max_drop = 0.5  # every merge needs a partner in B
    proportional = True
    published = False

    def __init__(self, *, power: float = 0.7, mix: float = 0.5) -> None:
        """
        Args:
            power: how much the class token's attention protects; 0 leaves similarity alone.
            mix: share of the tokens' cosine in the similarity; the rest is the keys'.
        """
        super().__init__()
        self.power, self.mix = power, mix

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        assert signals.class_row is not None
        p, drop = tokens.prefix, tokens.patches - keep
        states = normalize(tokens.x[:, p:].float(), dim=-1)
        keys = mean_keys(tokens, signals)
        metric = torch.cat(
            [keys * (1 - self.mix) ** 0.5, states * self.mix**0.5], dim=-1
        )  # its products mix the cosines
        best, partner = (metric[:, ::2] @ metric[:, 1::2].mT).max(-1)  # [B A]
        # With proportional attention the class row grows with a token's size: a cluster is not given away lightly.
        price = signals.class_row.mean(1, dtype=torch.float32)[:, p::2] ** self.power
        evens, batch = best.shape[1], best.shape[0]
        odd = torch.arange(1, tokens.patches, 2, device=best.device).expand(batch, -1)
        if drop == evens:  # all of A moves: nothing to rank
            return merge(tokens, odd, torch.arange(0, tokens.patches, 2, device=best.device).expand(batch, -1), partner)
        order = ((best - 1) * price).topk(evens, dim=1).indices
        moved, stay = order[:, :drop], order[:, drop:].sort(dim=1).values
        into = partner.gather(1, moved) + (evens - drop)
        return merge(tokens, torch.cat([stay * 2, odd], dim=1), moved * 2, into)

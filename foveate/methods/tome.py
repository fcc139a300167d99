"""ToMe: merge the most similar pairs of tokens (Bolya et al., ICLR 2023, arXiv:2210.09461, section 3).

Patches are split by turns into A and B; every token of A proposes its most similar token of B, by the cosine of their
mean keys; the best proposals are merged, weighted by size. Later attention adds log(size) to the keys' logits.
Differs from the public code: register tokens are never merged, and the split starts at the first patch, not at the class
token, which changes nothing but which patches stand in A.
"""

import torch

from foveate.methods._base import METHODS, Merger, merge
from foveate.tokens import Signals, Tokens


@METHODS.register("tome")
class ToMe(Merger):
    needs = frozenset({"keys"})
    max_drop = 0.5  # every merge needs a partner in B

    def __init__(self, *, proportional: bool = True) -> None:
        super().__init__()
        self.proportional = proportional

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        assert signals.keys is not None
        p, drop = tokens.prefix, tokens.patches - keep
        metric = torch.nn.functional.normalize(signals.keys.mean(1)[:, p:], dim=-1)  # [B P D]
        a, b = metric[:, ::2], metric[:, 1::2]
        best, partner = (a @ b.mT).max(-1)  # [B A]
        order = best.topk(best.shape[1], dim=1).indices
        merged, kept = order[:, :drop], order[:, drop:].sort(dim=1).values
        # Output: what stays of A in its order, then B.
        slots = torch.arange(keep, device=best.device).expand(len(best), -1)
        here, there = slots[:, : kept.shape[1]], slots[:, kept.shape[1] :]
        into_a = torch.zeros_like(partner).scatter(1, kept, here)
        into_a = into_a.scatter(1, merged, partner.gather(1, merged) + kept.shape[1])
        n = tokens.patches
        into = torch.zeros((len(best), n), dtype=torch.long, device=best.device)
        into[:, ::2], into[:, 1::2] = into_a, there
        anchor = torch.cat([kept * 2, torch.arange(1, n, 2, device=best.device).expand(len(best), -1)], dim=1)
        return merge(tokens, into, anchor, tokens.size[:, p:])

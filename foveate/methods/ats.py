"""ATS with a fixed count: sample the inverse of the scores' distribution (Fayyaz et al., ECCV 2022, arXiv:2111.15667).

The score is the class token's attention times the length of the value, summing to 1 over an image's patches. In
ascending order the scores add up to a distribution function; for each of K points 1/2K, 3/2K, ... the patch with the
nearest value is sampled. The paper keeps each sampled patch once, so that images keep different numbers of tokens, K
at most.
Ours keeps `keep` = K always: the sampled patches, topped up with the best of the others.
"""

from typing import final

import torch
from torch.nn.functional import pad

from foveate.methods._base import METHODS, Reducer, class_score, select
from foveate.tokens import Signals, Tokens


@final
@METHODS.register("ats")
class ATS(Reducer):
    needs = frozenset({"class_row", "values"})
    published = False  # the count is fixed

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        score, order = class_score(tokens, signals).sort(dim=1)
        height = score.cumsum(1)
        # A patch is nearest from half-way to its lower neighbour up to half-way to its upper one; `below` counts the
        # sampling points under each of these borders, so it is sampled where the count grows across it.
        below = ((height[:, :-1] + height[:, 1:]) * (keep / 2) + 0.5).floor()
        sampled = pad(below, (0, 1), value=keep) > pad(below, (1, 0))
        best = torch.where(sampled, score + 2, score).topk(keep, dim=1).indices
        return select(tokens, order.gather(1, best).sort(dim=1).values)

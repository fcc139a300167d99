"""PiToMe: merge where tokens crowd, protect what stands alone (Tran et al., NeurIPS 2024, arXiv:2405.16148).

The energy of a token is the mean over all tokens of ELU(cosine - margin), on mean keys, with the margin 0.75 (1 -
depth): high where many look alike. In the first half of the depth all tokens, by falling energy, are split by turns
and matched as ToMe matches; in the second half only the 2r of highest energy are split by turns, each of the first
merges into the most similar of the second, and all others are protected. Means are weighted by size; attention is
not, by default, as in the authors' DeiT. Tokens leave in the order of their energy.
"""

from typing import final

import torch
from torch import Tensor
from torch.nn.functional import elu

from foveate.methods._base import METHODS, Merger, mean_keys, merge, pairs
from foveate.tokens import Signals, Tokens, gather


@final
@METHODS.register("pitome")
class PiToMe(Merger):
    needs = frozenset({"keys"})
    max_drop = 0.5  # every merge needs a partner

    def __init__(self, *, margin: float = 0.75, proportional: bool = False) -> None:
        super().__init__()
        self.margin = margin
        self.proportional = proportional

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        metric, drop = mean_keys(signals)[:, tokens.prefix :], tokens.patches - keep
        energy = elu(metric @ metric.mT - self.margin * (1 - signals.depth)).mean(-1)
        order = energy.topk(tokens.patches, dim=1).indices
        if signals.depth < 0.5:
            anchor, moved, into = pairs(gather(metric, order), drop)
            return merge(tokens, order.gather(1, anchor), order.gather(1, moved), into)
        return merge(tokens, *_crowded(metric, order, drop))


def _crowded(metric: Tensor, order: Tensor, drop: int) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors, moved patches and their slots where only the 2 `drop` first of `order` take part."""
    moved, partner, protected = order[:, : 2 * drop : 2], order[:, 1 : 2 * drop : 2], order[:, 2 * drop :]
    into = (gather(metric, moved) @ gather(metric, partner).mT).argmax(-1)
    return torch.cat([partner, protected], dim=1), moved, into

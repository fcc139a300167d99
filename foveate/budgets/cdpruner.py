"""CDPruner: a determinantal choice, diverse and, where the prompt is known to the encoder, relevant to it.

Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs", NeurIPS
2025. The kernel is diag(q) S diag(q): S the cosines of what the language model is given, q the relevance of a cell
to the prompt, scaled to [0, 1]; cells are taken greedily by the determinant they add (Chen et al., 2018, with
Cholesky updates). Relevance needs a text tower beside the encoder, as CLIP's; without one q is 1, as here unless
`relevance` is given. Parts share the budget evenly.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from foveate.budgets._base import BUDGETS, Allocator, Sight, evenly, unit


@final
@BUDGETS.register("cdpruner")
class CDPruner(Allocator):
    needs = frozenset({"projected", "relevance"})

    def allocate(self, sight: Sight, tokens: int) -> Sequence[int]:
        return evenly(sight.tiling, tokens)

    def rank(self, sight: Sight, cells: Tensor, tokens: int) -> Tensor:
        assert sight.projected is not None
        vectors = unit(sight.projected[cells])
        if sight.relevance is not None:
            quality = sight.relevance[cells].float()
            quality = (quality - quality.amin()) / (quality.amax() - quality.amin()).clamp(min=1e-6)
            vectors = vectors * (quality + 1e-6)[:, None]
        return cells[determinantal(vectors, tokens)]


def determinantal(vectors: Tensor, count: int) -> Tensor:
    """Greedy choice of rows [m D] by the determinant of their products: `count` indices in the order of choice."""
    gain = vectors.square().sum(1)
    factors = vectors.new_zeros(count, len(vectors))
    taken = []
    for n in range(count):
        best = gain.argmax()
        taken.append(best)
        row = vectors @ vectors[best] - factors[:n].T @ factors[:n, best]
        factors[n] = row / gain[best].clamp(min=1e-12).sqrt()
        gain = (gain - factors[n].square()).clamp(min=0)
        gain[torch.stack(taken)] = -torch.inf
    return torch.stack(taken)

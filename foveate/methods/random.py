"""Random: keep patches by lot. The baseline to beat, and POMT's proxy for the accuracy at a token count.

The lot is drawn from `seed` and the number of patches alone, by hashing positions: no generator, no state, the same
patches in every image and every runtime. It ends in a constant index, so it costs one gather.
"""

from typing import final

import torch

from foveate.methods._base import METHODS, Reducer, select
from foveate.tokens import Signals, Tokens


@final
@METHODS.register("random")
class Random(Reducer):
    published = False  # nobody's method

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        first = mix(self.seed) + mix(tokens.patches)  # a later reduction draws anew
        lots = [mix(first + i) for i in range(tokens.patches)]
        kept = sorted(sorted(range(tokens.patches), key=lambda i: lots[i])[:keep])
        return select(tokens, torch.tensor(kept, device=tokens.x.device).expand(tokens.x.shape[0], -1))


def mix(n: int) -> int:
    """A 32-bit hash of an integer (Wang's multiply-and-shift scheme with Murmur3's constants)."""
    n &= 0xFFFFFFFF
    n = (n ^ (n >> 16)) * 0x85EBCA6B & 0xFFFFFFFF
    n = (n ^ (n >> 13)) * 0xC2B2AE35 & 0xFFFFFFFF
    return n ^ (n >> 16)

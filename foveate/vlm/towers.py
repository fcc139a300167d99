"""A vision tower whose own blocks merge tokens, in the place of a host's.

After a budget the encoder is most of the time that is left. So its blocks merge tokens by a method of foveate.methods.
What comes out is put back on the full grid, and a budget is to take each merged token once: of the patches that stand
for one token, the first has its score and the others none, so that they are taken last.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.adapters import adapt, name_of, restore
from foveate.adapters._base import Tap, attention_rows
from foveate.errors import InputError
from foveate.loading.convert_hf import CONVERTERS
from foveate.methods import METHODS, Merger
from foveate.planning.shorthand import steps as shorthand
from foveate.plans import Step
from foveate.vlm.scoring import last_block, sampled


class ReducedTower:
    """A host's tower as timm's, with steps in it. Blocks behind the last one that is used are left out.

    Args:
        tower: one of those that foveate converts: CLIP, SigLIP, ViT, DINOv2.
        steps: at blocks before the one that features come from; or `tome:8`, a method and tokens a block.
        layers: hidden states that the projector takes, as the host's configuration has them.

    Raises:
        InputError: a tower that is not converted, a method that drops tokens, a step too late.
    """

    def __init__(self, tower: Any, steps: Sequence[Step] | str, layers: int | Sequence[int]) -> None:
        if (convert := CONVERTERS.get(name_of(type(tower)))) is None:
            raise InputError(
                f"the blocks of a {type(tower).__name__} cannot be reduced; known: CLIP, SigLIP, ViT, DINOv2"
            )
        like = next(tower.parameters())
        dtype = like.dtype
        try:  # it converts in float32; the host's own weights come back as they were
            vit: Any = convert(tower.float())
        finally:
            tower.to(dtype)
        depth = len(vit.blocks)
        self.blocks = [last_block(layer, depth) for layer in ([layers] if isinstance(layers, int) else layers)]
        self.last = max(self.blocks)
        self.steps = parsed(vit, steps, self.last)
        self.reduced: Any = adapt(vit, self.steps).to(like.device, dtype).eval()
        trunk = self.reduced.trunk
        self.taps = {b: (Tap(trunk.blocks[b].attn.q_norm), Tap(trunk.blocks[b].attn.k_norm)) for b in {0, self.last}}

    @torch.no_grad()
    def run(self, pixels: Tensor, whole: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pixels [T 3 H W] -> given [T P D], early [pictures P], late [T P], keys [T P D]."""
        reduced, prefix = self.reduced, self.reduced.facts.prefix
        tokens = reduced.embed(pixels)
        index = torch.arange(tokens.patches, device=tokens.x.device)
        tokens = tokens._replace(source=index.expand(len(tokens.x), -1))
        given: dict[int, Tensor] = {}
        early = late = keys = None
        for block in range(self.last + 1):
            bias = reduced.bias(block, tokens)
            tokens = reduced.block(block, tokens)
            if block in self.taps:
                q, k = (tap.take() for tap in self.taps[block])
                if block == 0:
                    early = self._received(q[list(whole)], k[list(whole)], block, None)
                if block == self.last:
                    late, keys = self._received(q, k, block, bias), k[:, :, prefix:].mean(1, dtype=torch.float32)
            if block in self.blocks:
                given[block] = restore(tokens)[:, prefix:]
        assert early is not None and late is not None and keys is not None and tokens.source is not None
        late, keys = once(late, tokens.source), keys.gather(1, tokens.source[..., None].expand(-1, -1, keys.shape[-1]))
        return torch.cat([given[block] for block in self.blocks], -1), early, late, keys

    def _received(self, q: Tensor, k: Tensor, block: int, bias: Tensor | None) -> Tensor:
        """Attention that each patch token receives, from the class token or a sample, summed over heads: [T P']."""
        attention, facts = self.reduced.trunk.blocks[block].attn, self.reduced.facts
        asked = q[:, :, :1] if facts.has_class_token else q[:, :, sampled(q.shape[2]).to(q.device)]
        return attention_rows(asked, k, attention.scale, bias).mean(2).sum(1)[:, facts.prefix :]


def once(score: Tensor, source: Tensor) -> Tensor:
    """Scores of tokens [T P'] on the grid [T P]: the first patch of each token has it, the others 0."""
    place = torch.arange(source.shape[1], device=source.device).expand_as(source)
    first = torch.full_like(score, source.shape[1], dtype=torch.long).scatter_reduce(1, source, place, "amin")
    return torch.where(first.gather(1, source) == place, score.gather(1, source), 0.0)


def parsed(vit: nn.Module, steps: Sequence[Step] | str, last: int) -> list[Step]:
    """Steps of the tower.

    Raises:
        InputError: not `METHOD:TOKENS`, a method that does not merge, a step at or behind the last block that counts.
    """
    if isinstance(steps, str):
        method, _, count = steps.partition(":")
        if not count.isdigit() or not int(count):
            raise InputError(f"encoder {steps!r}; allowed: a method and tokens a block, such as tome:8")
        if method in METHODS and issubclass(METHODS[method], Merger):
            steps = [step for step in shorthand(vit, method, r=int(count)) if step.block < last]
        else:
            steps = [Step(block=0, method=method, tokens=2)]
    for step in steps:
        if not issubclass(METHODS[step.method], Merger):
            able = ", ".join(sorted(name for name, cls in METHODS.items() if issubclass(cls, Merger)))
            raise InputError(f"{step.method} drops tokens, and a budget may want any of them; those that merge: {able}")
        if step.block >= last:
            raise InputError(f"a step after block {step.block}; features come from block {last}, steps go before it")
    return list(steps)

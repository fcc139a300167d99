"""Methods with one thing wrong each: a law that cannot catch its fault proves nothing.

`FAULTS` maps each to the law that has to catch it.
"""

import torch
from torch import Tensor

from foveate.methods import METHODS, Merger, Reducer, Scorer
from foveate.methods._base import _slots, fuse, highest, mean_keys, merge, pairs, select
from foveate.tokens import Signals, Tokens, gather

FAULTS: dict[type[Reducer], str] = {}


def caught_by(law: str):
    def add(cls: type[Reducer]) -> type[Reducer]:
        FAULTS[cls] = law
        return cls

    return add


class _TopK(Scorer):
    """A sound Top-K to spoil."""

    needs = frozenset({"class_row"})

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        assert signals.class_row is not None
        return signals.class_row.mean(1)[:, tokens.prefix :]


class _ToMe(Merger):
    """A sound ToMe to spoil."""

    needs = frozenset({"keys"})
    max_drop = 0.5

    def pairs(self, tokens: Tokens, signals: Signals, keep: int) -> tuple[Tensor, Tensor, Tensor]:
        return pairs(mean_keys(signals), tokens.patches - keep, tokens.prefix)

    def forward(self, tokens: Tokens, signals: Signals, keep: int) -> Tokens:
        return merge(tokens, *self.pairs(tokens, signals, keep))


SOUND = (_TopK, _ToMe)


@caught_by("law_prefix")
class PrefixScaled(_TopK):
    def forward(self, tokens, signals, keep):
        out, p = super().forward(tokens, signals, keep), tokens.prefix
        return out._replace(x=torch.cat([out.x[:, :p] * 1.001, out.x[:, p:]], dim=1))


@caught_by("law_prefix")
class PrefixPermuted(_TopK):
    def forward(self, tokens, signals, keep):
        out, p = super().forward(tokens, signals, keep), tokens.prefix
        return out._replace(x=torch.cat([out.x[:, :p].flip(1), out.x[:, p:]], dim=1))


@caught_by("law_prefix")
class RegisterMerged(_ToMe):
    """Knows one prefix token and takes the registers for patches."""

    def forward(self, tokens, signals, keep):
        if tokens.prefix < 2:
            return super().forward(tokens, signals, keep)
        extra = tokens.prefix - 1
        out = super().forward(tokens._replace(prefix=1, source=None, rope=None), signals, keep + extra)
        kept = super().forward(tokens, signals, keep)
        return kept._replace(x=out.x, size=out.size)


@caught_by("law_count")
class OffByTwo(_TopK):
    """Leaves two more than planned: over the cliff that the plan was to stay below."""

    def forward(self, tokens, signals, keep):
        return super().forward(tokens, signals, min(keep + 2, tokens.patches))


@caught_by("law_count")
class CountInHalfPrecision(_ToMe):
    def forward(self, tokens, signals, keep):
        out = super().forward(tokens, signals, keep)
        return out._replace(size=out.size.bfloat16())


@caught_by("law_alone")
class NormalisedOverTheBatch(Reducer):
    needs = frozenset({"attention", "values"})

    def forward(self, tokens, signals, keep):
        p = tokens.prefix
        received = signals.attention.amax(1)[:, p:, p:].sum(1)
        score = received / received.max() + signals.values.amax(1).sum(-1).softmax(-1)[:, p:]
        return fuse(tokens, score, keep, torch.ones_like(score))


@caught_by("law_alone")
class OneChoiceForTheBatch(_TopK):
    def score(self, tokens, signals):
        return super().score(tokens, signals).mean(0, keepdim=True).expand(len(tokens.x), -1)


@caught_by("law_permutation")
class FirstImageDecides(_TopK):
    def score(self, tokens, signals):
        return super().score(tokens, signals)[:1].expand(len(tokens.x), -1)


@caught_by("law_sizes")
class MergedSizeForgotten(_ToMe):
    def forward(self, tokens, signals, keep):
        anchor, moved, into = self.pairs(tokens, signals, keep)
        out, p = merge(tokens, anchor, moved, into), tokens.prefix
        return out._replace(size=torch.cat([tokens.size[:, :p], tokens.size[:, p:].gather(1, anchor)], dim=1))


@caught_by("law_sizes")
class DroppedTokensCounted(_TopK):
    def forward(self, tokens, signals, keep):
        out = super().forward(tokens, signals, keep)
        lost = tokens.size.sum(1) - out.size.sum(1)
        return out._replace(size=torch.cat([out.size[:, :-1], out.size[:, -1:] + lost[:, None]], dim=1))


@caught_by("law_mean")
class WeightsNotNormalised(_ToMe):
    def forward(self, tokens, signals, keep):
        out = super().forward(tokens, signals, keep)
        p = tokens.prefix
        return out._replace(x=torch.cat([out.x[:, :p], out.x[:, p:] * out.size[:, p:, None]], dim=1))


@caught_by("law_loses_nothing")
class PlainMean(_ToMe):
    """Averages tokens as if each stood for one patch."""

    def forward(self, tokens, signals, keep):
        out = super().forward(tokens, signals, keep)
        plain = super().forward(tokens._replace(size=torch.ones_like(tokens.size)), signals, keep)
        return out._replace(x=plain.x)


@caught_by("law_loses_nothing")
class MovedTokensDropped(_ToMe):
    """Prunes what it says it merges."""

    def forward(self, tokens, signals, keep):
        return select(tokens, self.pairs(tokens, signals, keep)[0])


@caught_by("law_once")
class UsedTwice(_ToMe):
    """The best pair is merged and its first token kept as well, in the place of another."""

    def forward(self, tokens, signals, keep):
        anchor, moved, into = self.pairs(tokens, signals, keep)
        return merge(tokens, torch.cat([moved[:, :1], anchor[:, 1:]], dim=1), moved, into)


@caught_by("law_highest")
class WrongHalf(_TopK):
    def forward(self, tokens, signals, keep):
        return select(tokens, highest(-self.score(tokens, signals), keep))


@caught_by("law_highest")
class OrderOfScore(_TopK):
    def forward(self, tokens, signals, keep):
        return select(tokens, self.score(tokens, signals).topk(keep).indices)


@caught_by("law_source")
class SourceStale(_ToMe):
    def forward(self, tokens, signals, keep):
        return super().forward(tokens, signals, keep)._replace(source=tokens.source)


@caught_by("law_source")
class DroppedBeforeRevived(_TopK):
    """Forgets that -1 in a source map is no index from the end."""

    def forward(self, tokens, signals, keep):
        kept = highest(self.score(tokens, signals), keep)
        out = select(tokens, kept)
        if tokens.source is None:
            return out
        return out._replace(source=_slots(kept, tokens.patches).gather(1, tokens.source % tokens.patches))


@caught_by("law_rope")
class RopeNotGathered(_TopK):
    def forward(self, tokens, signals, keep):
        out = super().forward(tokens, signals, keep)
        return out._replace(rope=None if tokens.rope is None else tokens.rope[:, :keep])


@caught_by("law_gradient")
class Detached(_ToMe):
    def forward(self, tokens, signals, keep):
        return super().forward(tokens._replace(x=tokens.x.detach().requires_grad_(False)), signals, keep)


@caught_by("law_gradient")
class MovedTokensDetached(_ToMe):
    """Half the gradient: what moves gets none."""

    def forward(self, tokens, signals, keep):
        anchor, _, _ = self.pairs(tokens, signals, keep)
        held = tokens.prefix + anchor
        x = tokens.x.detach()
        still = torch.cat([x[:, : tokens.prefix], tokens.x[:, tokens.prefix :].detach()], dim=1)
        live = still.scatter(1, held[..., None].expand(-1, -1, x.shape[-1]), gather(tokens.x, held))
        if tokens.prefix:
            live = torch.cat([tokens.x[:, : tokens.prefix], live[:, tokens.prefix :]], dim=1)
        return super().forward(tokens._replace(x=live), signals, keep)


@caught_by("law_repeatable")
class GlobalDice(Scorer):
    def score(self, tokens, signals):
        return torch.rand(1, tokens.patches).expand(len(tokens.x), -1)


@caught_by("law_repeatable")
class PoppingState(_TopK):
    """A schedule in a Python list that shrinks with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.signs = [1.0, -1.0] * 100

    def score(self, tokens, signals):
        return super().score(tokens, signals) * self.signs.pop(0)


@caught_by("law_bf16")
class ChosenInHalfPrecision(_TopK):
    """Lets the tokens' type decide where they go."""

    def score(self, tokens, signals):
        return super().score(tokens, signals).to(tokens.x.dtype)


@caught_by("law_export")
class BooleanMask(_TopK):
    """Right in eager; no exporter can know the shape."""

    def forward(self, tokens, signals, keep):
        kept = highest(self.score(tokens, signals), keep)
        mask = torch.zeros(kept.shape[0], tokens.patches, dtype=torch.bool).scatter(1, kept, True)
        out, p = select(tokens, kept), tokens.prefix
        chosen = tokens.x[:, p:][mask].reshape(out.x[:, p:].shape)
        return out._replace(x=torch.cat([tokens.x[:, :p], chosen], dim=1))


assert not set(FAULTS) & set(METHODS.values())  # a fault is never registered

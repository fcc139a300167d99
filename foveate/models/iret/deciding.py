"""Which tokens vanish, which stay as coarse as they are, and for which more of the image is sampled.

IRET's abstract states that a threshold on attention decides, and is the knob at run time. Relevance, the two thresholds
and the guards are our reconstruction (accumulation over blocks as in CF-ViT, arXiv:2203.03821).
"""

from operator import gt
from typing import Annotated, NamedTuple, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

T = TypeVar("T")
LEAST = 8  # tokens that a threshold leaves at least


class Counts(BaseModel):
    """An operating point of static shapes: how many patches stay at each transition, and how many of them get detail.

    `focus` by default all that stay.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep: tuple[Annotated[int, Field(ge=1)], ...]
    focus: tuple[Annotated[int, Field(ge=0)], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(b > a for a, b in zip(self.keep, self.keep[1:], strict=False)):
            raise ValueError(f"keep is {self.keep}; allowed: counts that do not grow")
        if self.focus and (len(self.focus) != len(self.keep) or any(map(gt, self.focus, self.keep))):
            raise ValueError(f"focus is {self.focus}; allowed: a count for each of keep {self.keep}, none larger")
        return self

    def at(self, transition: int) -> tuple[int, int]:
        """(keep, focus) of the how-manieth transition; where fewer are named, the last one is repeated."""
        keep = _at(self.keep, transition)
        return keep, min(_at(self.focus, transition), keep) if self.focus else keep


class Thresholds(BaseModel):
    """An operating point that follows the image: below `drop` a token vanishes, from `focus` on it gets detail.

    In units of the mean relevance, so that 1 is an average token, whatever their number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    drop: tuple[Annotated[float, Field(ge=0)], ...]
    focus: tuple[Annotated[float, Field(ge=0)], ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.focus and (len(self.focus) != len(self.drop) or any(map(gt, self.drop, self.focus))):
            raise ValueError(f"focus is {self.focus}; allowed: for each of drop {self.drop} no less")
        return self


Point = Counts | Thresholds


class Decision(NamedTuple):
    """Tokens by falling relevance: the first get detail, the last vanish. An image's own counts where they differ."""

    index: Tensor  # [B K] of the tokens before, the most relevant first
    focus: int  # so many of the first get detail, in the image that has most
    kept: Tensor | None = None  # [B] how many of K this image keeps; the rest is padding
    focused: Tensor | None = None  # [B] how many of `focus` in this image


def relevance(score: Tensor, valid: Tensor | None = None) -> Tensor:
    """Attention received [B N] -> the same with a mean of 1 over the valid tokens; -1 for padding."""
    if valid is None:
        return score * (score.shape[1] / score.sum(1, keepdim=True))
    score = score.masked_fill(~valid, 0)
    return (score * (valid.sum(1, keepdim=True) / score.sum(1, keepdim=True))).masked_fill(~valid, -1)


def decide(r: Tensor, point: Point, transition: int) -> Decision:
    """
    Args:
        r: [B N] relevance.
        transition: the how-manieth; a point that names fewer has its last one repeated.
    """
    if isinstance(point, Counts):
        keep, focus = (min(n, r.shape[1]) for n in point.at(transition))
        return Decision(r.topk(keep, dim=1).indices, focus)
    drop = _at(point.drop, transition)
    sorted_r, index = r.sort(dim=1, descending=True)
    there = (sorted_r >= 0).sum(1)
    kept = torch.minimum((sorted_r >= drop).sum(1).clamp(min=min(LEAST, r.shape[1])), there)
    focused = kept
    if point.focus:
        focused = torch.minimum((sorted_r >= _at(point.focus, transition)).sum(1).clamp(min=1), kept)
    most = int(kept.max())
    return Decision(index[:, :most], int(focused.max()), kept, focused)


def _at(values: tuple[T, ...], i: int) -> T:
    return values[min(i, len(values) - 1)]

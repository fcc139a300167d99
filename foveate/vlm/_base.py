"""One family of language models that see: where its pictures' tokens come from and what it takes instead of them.

A family knows its host and no maths. Everything up to the projector is the host's own code, stopped there; which cells
a budget's method keeps is decided from what `looks` returns, only those are projected, and `output` puts them into the
shape that the host takes as `mm_encoder_outputs`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from foveate.budgets.registered import Kept, Sight
from foveate.budgets.tiling import Tiling
from foveate.errors import InputError
from foveate.registry import Registry

Inputs = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Look:
    """One picture, encoded and not yet projected.

    Args:
        sight: what a method decides by; without `projected`.
        given: [N ...], what the projector takes, one row a place.
        sources: [n S] int64, the rows of `given` that each cell is made of.
        weights: [n S], in which proportion, after projection; None where S is 1.
        deep: what further projectors take, rows as in `given`.
    """

    sight: Sight
    given: Tensor
    sources: Tensor
    weights: Tensor | None = None
    deep: tuple[Tensor, ...] = ()


class Family(ABC):
    """Hooks for one kind of model. `model` is the class with the language model's head."""

    types: ClassVar[tuple[str, ...]] = ()  # config.model_type of what it fits
    reduces_encoder: bool = False

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.config: Any = model.config
        self.core: Any = model.model

    def known(self, inputs: Inputs) -> dict[str, Any]:
        """Inputs without those that are ours alone."""
        return dict(inputs)

    @property
    def image_token(self) -> int:
        for name in ("image_token_id", "image_token_index"):
            if isinstance(token := getattr(self.config, name, None), int):
                return token
        raise InputError(f"{type(self.model).__name__}: its configuration names no image token")

    @abstractmethod
    def tiling(self, image_size: tuple[int, int]) -> Tiling:
        """The tokens of a picture of (height, width) pixels, from the configuration alone."""

    @abstractmethod
    def tilings(self, inputs: Inputs) -> list[Tiling]:
        """The tokens of every picture that these inputs hold, in the order of the prompts."""

    @abstractmethod
    def looks(self, inputs: Inputs, tilings: Sequence[Tiling], needs: frozenset[str]) -> list[Look]:
        """Encode every picture, up to the projector."""

    @abstractmethod
    def project(self, given: Tensor) -> Tensor:
        """[M ...] -> [M D], what the language model is given for each row."""

    def newline(self) -> Tensor | None:
        """[D], the token that ends a line."""
        return getattr(self.core, "image_newline", None)

    def deep_features(self, look: Look, kept: Kept) -> list[Tensor]:
        """What the language model is given beside the tokens of a picture, in deeper blocks: [K D] each."""
        return []

    def output(self, kept: Sequence[Tensor], deep: Sequence[list[Tensor]]) -> Any:
        """What `mm_encoder_outputs["image"]` is: [K D] of every picture, and their deep features."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        tokens: Any = list(kept)
        return BaseModelOutputWithPooling(pooler_output=tokens)

    @contextmanager
    def bridged(self) -> Iterator[None]:
        """While the host runs with what `output` made."""
        yield

    def reduce_encoder(self, steps: Any) -> None:
        """Let the encoder's own blocks merge tokens.

        Raises:
            InputError: one that cannot.
        """
        raise InputError(f"the encoder of a {self.config.model_type} cannot be reduced; those of LLaVA's kin can")

    def positions(self, inputs: Inputs) -> tuple[Tensor | None, Callable[[Tensor], None] | None]:
        """Positions [A B S] of the full prompts where a model has more than one axis, and what is told of removals."""
        return None, None


def assembled(look: Look, kept: Kept, project: Callable[[Tensor], Tensor], newline: Tensor | None) -> Tensor:
    """The tokens that stay of a picture, as the language model takes them: [K D].

    Cells that stay are projected and no others, with what they are made of where a host makes its mosaic smaller.
    """
    if look.sight.projected is not None:
        cells = kept.pick(look.sight.projected)
    elif look.weights is None:
        cells = project(kept.pick(look.given[look.sources[:, 0]].flatten(1)).unflatten(-1, look.given.shape[1:]))
    elif kept.into is not None:
        cells = kept.pick(mixed(look, torch.arange(len(look.sources), device=kept.cells.device), project))
    else:
        cells = mixed(look, kept.cells, project)
    if len(kept.rows) == len(kept.cells):
        return cells
    assert newline is not None
    out = newline.to(cells).expand(len(kept.rows), -1).clone()
    of_cells = torch.tensor(kept.tiling.row, device=kept.rows.device)[kept.cells]
    out[torch.isin(kept.rows, of_cells)] = cells
    return out


def mixed(look: Look, cells: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    """Projected features of `cells` [M], each a mean of its sources: [M D]. Every source is projected once."""
    sources = look.sources[cells]
    if look.weights is None:
        return project(look.given[sources[:, 0]])
    unique, place = sources.unique(return_inverse=True)
    projected = project(look.given[unique])
    return (projected[place] * look.weights[cells][..., None].to(projected)).sum(1)


FAMILIES: Registry[Family] = Registry("family")


def known_type(config: Any, name: str) -> "type[Family]":
    """The family of a configuration.

    Raises:
        InputError: one that no family knows.
    """
    kind = getattr(config, "model_type", None)
    for family in FAMILIES.values():
        if kind in family.types:
            return family
    known = ", ".join(sorted(t for family in FAMILIES.values() for t in family.types))
    raise InputError(f"{name} (model_type {kind!r}) is no model that foveate.vlm knows; known: {known}")


def family_of(model: nn.Module) -> Family:
    """The hooks for `model`.

    Raises:
        InputError: a class that no family knows.
    """
    family = known_type(getattr(model, "config", None), type(model).__name__)
    if not hasattr(model, "generate") or not hasattr(model, "model"):
        raise InputError(
            f"{type(model).__name__} has no language model's head; load it with AutoModelForImageTextToText"
        )
    return family(model)

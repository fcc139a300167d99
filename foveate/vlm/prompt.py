"""Prompts with fewer places for pictures. A processor writes one placeholder for every token a picture could have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foveate.budgets.registered import Kept
from foveate.budgets.tiling import Tiling
from foveate.errors import InputError

TYPES = "mm_token_type_ids"


@dataclass(frozen=True, eq=False)
class Prompts:
    """A batch of prompts as a model takes them.

    Args:
        ids: [B S] int64.
        mask: [B S] int64, 0 where a prompt is padded.
        others: further tensors [B S] that go with the ids: token types, labels.
        places: for every picture its prompt and the places [n] of its tokens there.
    """

    ids: Tensor
    mask: Tensor
    places: Sequence[tuple[int, Tensor]]
    others: Mapping[str, Tensor] = field(default_factory=dict)


def read(inputs: Mapping[str, Any], image_token: int, tilings: Sequence[Tiling]) -> Prompts:
    """Find every picture's places in a batch of prompts.

    Raises:
        InputError: a prompt has another number of placeholders than its pictures have tokens, or pictures are left
            over.
    """
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        raise InputError(
            "input_ids [batch, length] are needed beside pictures; inputs_embeds alone cannot be shortened"
        )
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(ids)
    elif mask.shape != ids.shape:
        raise InputError(f"attention_mask {tuple(mask.shape)} is not of input_ids' shape {tuple(ids.shape)}")
    others = {
        key: value
        for key in (TYPES, "labels")
        if isinstance(value := inputs.get(key), Tensor) and value.shape == ids.shape
    }
    return Prompts(ids, mask, _places(ids, image_token, tilings), others)


def _places(ids: Tensor, image_token: int, tilings: Sequence[Tiling]) -> list[tuple[int, Tensor]]:
    found: list[tuple[int, Tensor]] = []
    for prompt, row in enumerate(ids):
        slots = (row == image_token).nonzero().squeeze(1)
        used = 0
        while used < len(slots):
            if len(found) == len(tilings):
                raise InputError(
                    f"prompt {prompt} has {len(slots)} image tokens, of which {len(slots) - used} belong to no "
                    f"picture: {len(tilings)} were given"
                )
            wanted = tilings[len(found)].tokens
            if used + wanted > len(slots):
                raise InputError(
                    f"prompt {prompt}: {len(slots) - used} image tokens (id {image_token}) for picture {len(found)}, "
                    f"which takes {wanted}; let the model's own processor write the prompt from this picture"
                )
            found.append((prompt, slots[used : used + wanted]))
            used += wanted
    if len(found) < len(tilings):
        raise InputError(
            f"{len(tilings)} pictures, and image tokens (id {image_token}) for {len(found)} of them in "
            f"{len(ids)} prompt{'s' if len(ids) > 1 else ''}"
        )
    return found


def shorten(prompts: Prompts, kept: Sequence[Kept]) -> tuple[Prompts, Tensor]:
    """Prompts without the places of what is dropped.

    Returns:
        the prompts, padded on the side where they were, and [B S'] int64: the place that each token had, -1 in
        padding.
    """
    stays = torch.ones_like(prompts.ids, dtype=torch.bool)
    for (prompt, slots), choice in zip(prompts.places, kept, strict=True):
        stays[prompt, slots] = False
        stays[prompt, slots[choice.rows.to(slots.device)]] = True
    real = stays & prompts.mask.bool()
    length = int(real.sum(1).max())
    left = not bool((prompts.mask[:, -1] == 0).any())  # what follows a prompt is written at its end
    place = torch.full((len(real), length), -1, device=real.device)
    for prompt, row in enumerate(real):
        at = row.nonzero().squeeze(1)
        place[prompt, length - len(at) :] = at if left else -1
        if not left:
            place[prompt, : len(at)] = at
    index, filled = place.clamp(min=0), place >= 0
    pad = _padding(prompts)
    ids = torch.where(filled, prompts.ids.gather(1, index), pad)
    empty = {TYPES: 0, "labels": -100}
    others = {key: torch.where(filled, value.gather(1, index), empty[key]) for key, value in prompts.others.items()}
    new_place = torch.full_like(prompts.ids, -1).scatter(1, index, torch.where(filled, _arange(place), 0))
    places = [
        (prompt, new_place[prompt, slots[choice.rows.to(slots.device)]])
        for (prompt, slots), choice in zip(prompts.places, kept, strict=True)
    ]
    return Prompts(ids, filled.to(prompts.mask.dtype), places, others), place


def _arange(place: Tensor) -> Tensor:
    return torch.arange(place.shape[1], device=place.device).expand_as(place)


def _padding(prompts: Prompts) -> Tensor:
    """The id that pads these prompts: that of a padded place, else 0, which the mask hides as well."""
    padded = prompts.ids[prompts.mask == 0]
    return padded[0] if len(padded) else prompts.ids.new_zeros(())

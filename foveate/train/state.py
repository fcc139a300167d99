"""Checkpoints: everything that a run depends on from here, written whole or not at all, and resumed exactly."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from foveate.errors import InputError
from foveate.files import replacing, unfailing
from foveate.loading.card import CARD, Card
from foveate.staging import spelled

LAST = "last.pt"


@dataclass
class Position:
    """Where a run stands."""

    epoch: int = 0
    batch: int = 0  # of this epoch, done
    step: int = 0  # optimiser steps done, over all epochs
    best: float = -1.0  # score so far, %
    unreadable: int = 0
    seconds: float = 0.0  # spent so far, over all sittings


def save(out: Path, position: Position, fingerprint: str, parts: dict[str, Any]) -> None:
    """`parts`: what has a `state_dict`, by name, or None."""
    content = {
        "fingerprint": fingerprint,
        "position": asdict(position),
        "rng": torch.get_rng_state(),
        "parts": {name: part.state_dict() for name, part in parts.items() if part is not None},
    }
    with replacing(out / LAST) as part, unfailing(part) as file:
        torch.save(content, file)


def resume(out: Path, fingerprint: str, parts: dict[str, Any]) -> Position:
    """Put everything back as `save` found it.

    Raises:
        InputError: no checkpoint, a damaged one, or one of another recipe or model.
    """
    path = out / LAST
    if not path.is_file():
        raise InputError(f"nothing to resume: {path} does not exist")
    try:
        with spelled(path) as at:
            content = torch.load(at, map_location="cpu", weights_only=True)
        position, found = Position(**content["position"]), content["fingerprint"]
    except Exception as e:  # torch raises many kinds for a damaged file
        raise InputError(f"checkpoint {path} cannot be read: {str(e).splitlines()[0]}") from None
    if found != fingerprint:
        raise InputError(
            f"checkpoint {path} is of recipe {found}, this one is {fingerprint}: resume with the recipe it was made "
            "with, or name another --out"
        )
    try:
        for name, part in parts.items():
            if part is not None:
                part.load_state_dict(content["parts"][name])
    except (KeyError, RuntimeError, ValueError) as e:
        raise InputError(f"checkpoint {path} is of another model: {str(e).splitlines()[0]}") from None
    torch.set_rng_state(content["rng"])
    return position


def save_model(out: Path, model: nn.Module, card: Card) -> None:
    """Weights as safetensors, what they are inside the same file, and that again beside it, to be read by people."""
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with replacing(Card.files(out).weights) as part:
        save_file(state, part, {CARD: card.model_dump_json()})
    card.write(out)

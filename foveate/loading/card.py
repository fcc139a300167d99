"""What stands beside the weights of a trained model: enough to build it again, and how good it was."""

from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from foveate.errors import InputError
from foveate.files import read_text, write_text
from foveate.loading.weights import first_line
from foveate.plans import Kwarg
from foveate.preprocess import Preprocess
from foveate.staging import spelled

CARD = "foveate.card"  # in the metadata of the weights


class Files(NamedTuple):
    card: Path
    weights: Path


class Card(BaseModel):
    """Written by training, read by `load`. `schema_version` changes when a reader of an old file must care."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    model: str | None  # None where the recipe's own code made it
    options: dict[str, Kwarg]
    classes: tuple[str, ...] | int  # their names, or how many
    image_size: int
    preprocess: Preprocess
    recipe: str  # its fingerprint
    epoch: int
    scores: dict[str, float]  # %, of the validation that made it the best

    @property
    def count(self) -> int:
        return self.classes if isinstance(self.classes, int) else len(self.classes)

    @staticmethod
    def files(folder: Path) -> Files:
        return Files(folder / "best.json", folder / "best.safetensors")

    def write(self, folder: Path) -> None:
        write_text(self.files(folder).card, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """
        Raises:
            InputError: no finished validation in the folder, or a damaged card.
        """
        card, weights = cls.files(folder)
        inside = _inside(weights) if weights.is_file() else None
        where = card if inside is None else weights
        if not weights.is_file() or (inside is None and not card.is_file()):
            raise InputError(
                f"{folder} holds neither a fitted model (plan.json) nor a trained one ({card.name}, {weights.name})"
            )
        try:
            # What stands in the weights themselves is of those weights, whatever an interrupted run left beside them.
            return cls.model_validate_json(read_text(card) if inside is None else inside)
        except ValidationError as e:
            found = e.errors()[0]
            raise InputError(
                f"{where} is damaged: {'.'.join(map(str, found['loc'])) or 'it'}: {found['msg']}"
            ) from None
        except ValueError as e:
            raise InputError(f"{where} is damaged: {first_line(e)}") from None


def _inside(weights: Path) -> str | None:
    """The card in the weights' own file; None where there is none, or no file."""
    from safetensors import SafetensorError, safe_open

    try:
        with spelled(weights) as at, safe_open(at, "numpy") as file:
            return (file.metadata() or {}).get(CARD)
    except (OSError, SafetensorError):  # not there, or damaged: told when they are loaded
        return None

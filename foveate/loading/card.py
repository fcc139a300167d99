"""What stands beside the weights of a trained model: enough to build it again, and how good it was."""

from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from foveate.errors import InputError
from foveate.files import read_text, write_text
from foveate.loading.weights import first_line
from foveate.plans import Kwarg
from foveate.preprocess import Preprocess


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
        if not card.is_file() or not weights.is_file():
            raise InputError(
                f"{folder} holds neither a fitted model (plan.json) nor a trained one ({card.name}, {weights.name})"
            )
        try:
            return cls.model_validate_json(read_text(card))
        except ValidationError as e:
            found = e.errors()[0]
            raise InputError(f"{card} is damaged: {'.'.join(map(str, found['loc'])) or 'it'}: {found['msg']}") from None
        except ValueError as e:
            raise InputError(f"{card} is damaged: {first_line(e)}") from None

"""Converting a trained ViT: other attention first, then other linear layers, learnt from the model's own answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from foveate.errors import InputError
from foveate.loading.card import Card
from foveate.loading.loaded import Loaded
from foveate.models.reparameterized import ReparameterizedViT, reparameterize
from foveate.models.reparameterized.model import ATTENTION, LINEAR, options_of
from foveate.models.reparameterized.variants import NAME
from foveate.plans import Kwarg
from foveate.preprocess import Preprocess
from foveate.train.imitate import Imitate
from foveate.train.loop import Progress, Trained, train
from foveate.train.recipe import Augment, Precision, Recipe
from foveate.train.state import LAST

FIRST = "attention"  # the folder of the first of two stages


@dataclass(frozen=True)
class Words:
    """What is to be converted, as `ReparameterizedViT` takes it."""

    attention: str = ATTENTION
    mlp: str = LINEAR
    projections: str = LINEAR
    blocks: str = "all"

    def stages(self) -> list[tuple[str, "Words"]]:
        """Names and words of the stages: attention by itself first, as published, where both change.

        Raises:
            InputError: nothing is to be converted.
        """
        last = (self.mlp, self.projections) != (LINEAR, LINEAR)
        if self.attention == ATTENTION:
            if not last:
                raise InputError("nothing to convert; allowed: --attention, --mlp or --projections, one at least")
            return [("", self)]
        return [(FIRST, Words(attention=self.attention, blocks=self.blocks)), ("", self)] if last else [("", self)]

    def options(self) -> dict[str, str]:
        plain = Words()
        return {k: v for k, v in vars(self).items() if v != getattr(plain, k)}


@dataclass(frozen=True)
class Training:
    """How each stage is trained."""

    epochs: int = 10
    batch: int = 64
    lr: float = 3e-4
    precision: Precision = "bf16"
    seed: int = 0
    workers: int = 2


@dataclass(frozen=True)
class Converted:
    """What came of it, and of every stage."""

    out: Path
    words: Words
    stages: dict[str, Trained]


def convert(
    loaded: Loaded,
    data: str,
    out: Path,
    words: Words,
    training: Training,
    *,
    resumed: bool = False,
    progress: Progress = lambda stage, share, text: None,
) -> Converted:
    """Convert and train, stage after stage; `out` can then be fitted, evaluated, exported and served by its path.

    Args:
        data: photographs, in whatever folders; no label is looked at.
        resumed: go on where a run in `out` was broken off.

    Raises:
        InputError: a model that cannot be converted, an unknown variant, too few photographs.
    """
    plain = options_of(loaded.model)
    height, width = loaded.preprocess.size
    if height != width:
        raise InputError(f"the model takes images of {height}x{width}; allowed for conversion: square ones")
    stages = words.stages()
    found, before = dict[str, Trained](), None
    for i, (folder, now) in enumerate(stages):
        reparameterize(loaded.model, **vars(now))  # a wrong word, before anything is trained
        at = out / folder if folder else out
        recipe = recipe_of(loaded, plain, now, data, training, before)
        found[folder or "all"] = train(
            recipe, at, resumed=resumed and (at / LAST).exists(),
            progress=_part(progress, i, len(stages), folder or "convert"),
        )  # fmt: skip
        before = (Card.files(at).weights, now)
    return Converted(out, words, found)


def recipe_of(
    loaded: Loaded, plain: dict[str, Kwarg], words: Words, data: str, training: Training,
    before: tuple[Path, Words] | None,
) -> Recipe:  # fmt: skip
    """One stage. `before`: the weights of the stage before it and what that converted."""
    return Recipe(
        model=NAME,
        options=plain | words.options(),
        start=Start(loaded.model, loaded.preprocess, plain, words, before),
        data=data,
        task=Imitate(loaded.model, embedding=loaded.outputs == "embedding", names=loaded.classes),
        image_size=loaded.preprocess.size[0],
        epochs=training.epochs, batch=training.batch, lr=training.lr, precision=training.precision,
        seed=training.seed, workers=training.workers, warmup_epochs=min(1, training.epochs - 1),
        weight_decay=0.0, augment=Augment(scale=(0.35, 1.0), color_jitter=0.3),
    )  # type: ignore[arg-type]  # fmt: skip


@dataclass(frozen=True)
class Start:
    """Puts into a model that was built what it starts from, and what its photographs are like."""

    teacher: nn.Module
    preprocess: Preprocess
    plain: dict[str, Kwarg]
    words: Words
    before: tuple[Path, Words] | None

    __qualname__ = "Start"  # part of a recipe's fingerprint

    def __call__(self, model: Any) -> None:
        if self.before is None:
            first = reparameterize(self.teacher, **vars(self.words))
        else:
            weights, had = self.before
            options: dict[str, Any] = {**self.plain, **had.options()}
            first = ReparameterizedViT(**options)
            first.load_state_dict(load_file(weights))
            first.convert(mlp=self.words.mlp, projections=self.words.projections, blocks=self.words.blocks)
        model.load_state_dict(first.state_dict())
        p = self.preprocess
        model.pretrained_cfg = {
            "input_size": (3, *p.size), "mean": p.mean, "std": p.std, "interpolation": p.interpolation,
            "crop_pct": p.crop_pct, "crop_mode": p.crop_mode,
        }  # fmt: skip


def _part(progress: Progress, i: int, of: int, name: str) -> Progress:
    """One stage's progress as its part of the whole."""

    def tell(stage: str, share: float, text: str) -> None:
        progress(stage, (i + share) / of, f"{name}: {text}" if of > 1 else text)

    return tell

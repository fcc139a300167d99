"""Converting a trained ViT: other attention first, then other linear layers, learnt from the model's own answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file
from torch import nn

from foveate.adapters import describe
from foveate.errors import InputError
from foveate.files import read_as, write_text
from foveate.hardware.device import default_threads
from foveate.linears import LINEARS
from foveate.loading.card import Card
from foveate.loading.loaded import Loaded
from foveate.models.reparameterized import ReparameterizedViT, reparameterize
from foveate.models.reparameterized.model import ATTENTION, LINEAR, options_of
from foveate.models.reparameterized.spelled import spelled
from foveate.models.reparameterized.variants import NAME
from foveate.plans import Kwarg
from foveate.preprocess import Preprocess
from foveate.profiling.experts import ExpertLatency, expert_latency
from foveate.runtimes import RUNTIMES
from foveate.target import Precision as Narrow
from foveate.target import Target
from foveate.train.imitate import Imitate
from foveate.train.loop import Progress, Trained, train
from foveate.train.recipe import Augment, Precision, Recipe
from foveate.train.state import LAST

FIRST = "attention"  # the folder of the first of two stages
PLAN = "conversion.json"  # what is converted, with what was measured for it; a run that goes on takes it from here
MIXTURE = "mixture"


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


class Conversion(BaseModel):
    """conversion.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: dict[str, str]
    words: dict[str, str]  # with measured ratios
    measured: dict[str, str]  # lines for people, by the part


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
    measured: dict[str, str]
    stages: dict[str, Trained]


def convert(
    loaded: Loaded,
    data: str,
    out: Path,
    words: Words,
    training: Training,
    *,
    target: Target | None = None,
    resumed: bool = False,
    progress: Progress = lambda stage, share, text: None,
) -> Converted:
    """Convert and train, stage after stage; `out` can then be fitted, evaluated, exported and served by its path.

    Args:
        data: photographs, in whatever folders; no label is looked at.
        target: where it will run; a mixture that is given no ratio gets that of its experts' latencies there.
        resumed: go on where a run in `out` was broken off.

    Raises:
        InputError: a model that cannot be converted, an unknown variant, too few photographs.
    """
    plain = options_of(loaded.model)
    height, width = loaded.preprocess.size
    if height != width:
        raise InputError(f"the model takes images of {height}x{width}; allowed for conversion: square ones")
    for _, now in words.stages():
        reparameterize(loaded.model, **vars(now))  # a wrong word, before anything is measured or trained
    plan = planned(loaded, out, words, target, resumed, progress)
    words = Words(**plan.words)
    stages = words.stages()
    found, before = dict[str, Trained](), None
    for i, (folder, now) in enumerate(stages):
        at = out / folder if folder else out
        recipe = recipe_of(loaded, plain, now, data, training, before)
        found[folder or "all"] = train(
            recipe, at, resumed=resumed and (at / LAST).exists(),
            progress=_part(progress, i, len(stages), folder or "convert"),
        )  # fmt: skip
        before = (Card.files(at).weights, now)
    return Converted(out, words, plan.measured, found)


def planned(
    loaded: Loaded, out: Path, words: Words, target: Target | None, resumed: bool, progress: Progress
) -> Conversion:
    """What is asked, with measured ratios; on the way it is written, or where a run goes on, read.

    Raises:
        InputError: the run in `out` was asked for something else, or is not to go on.
    """
    if not resumed and ((out / PLAN).exists() or (out / LAST).exists()):  # the first stage lies in a folder of its own
        raise InputError(f"{out} holds a run already: go on with it (--resume), or name another --out")
    if (out / PLAN).exists():
        plan = read_as(Conversion, out / PLAN)
        if plan.asked != words.options():
            raise InputError(f"{out} is a conversion to {plan.asked}: ask for the same, or name another --out")
        return plan
    made, measured = dict[str, str](), dict[str, str]()
    for part, text in words.options().items():
        variant = spelled(text, LINEARS, LINEAR) if part in ("mlp", "projections") else None
        if variant is not None and variant[0] == MIXTURE and "ratio" not in variant[1]:
            progress("measure", 0.0, f"experts of {part}")
            found = expert_of(loaded, part, variant[1], target or best_target())
            text = f"{text}{',' if ':' in text else ':'}ratio={found.ratio.value:.3g}"
            measured[part] = found.line()
        made[part] = text
    plan = Conversion(asked=words.options(), words=made, measured=measured)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / PLAN, plan.model_dump_json(indent=2) + "\n")
    return plan


def expert_of(loaded: Loaded, part: str, options: dict[str, Any], target: Target) -> ExpertLatency:
    """Latencies of both experts of a model's MLPs or of its projections, each on half of the tokens."""
    block: Any = loaded.model.blocks[0]  # type: ignore[index]
    own = {k: v for k, v in options.items() if k in ("format", "learn")}
    tokens = describe(loaded.model).tokens // 2
    return expert_latency(block.mlp if part == "mlp" else block.attn.qkv, loaded.model.embed_dim, tokens, target, **own)  # type: ignore[arg-type]


def best_target() -> Target:
    """OpenVINO on the processor, in the narrowest type that is there."""
    runtime = RUNTIMES["openvino"]
    precision: Narrow = "fp32"
    if runtime.why_not("int8") is None:
        precision = "int8"
    elif runtime.why_not("bf16") is None:
        precision = "bf16"
    return Target(runtime="openvino", precision=precision, threads=default_threads())


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

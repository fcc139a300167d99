"""A token budget on a Hugging Face model, in one line, and off again."""

import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from foveate.budgets.count import Budget
from foveate.budgets.registered import BUDGETS, BudgetMethod, Kept
from foveate.errors import InputError
from foveate.plans import Step
from foveate.vlm import prompt
from foveate.vlm._base import Family, assembled, family_of, mixed

ATTRIBUTE = "_foveate_budget"
# What stands for the pictures of the full prompt, of which a shortened one must know nothing.
OF_PICTURES = ("pixel_values", "image_sizes", "image_grid_thw", "batch_num_images", "vision_feature_layer")


@dataclass(frozen=True, eq=False)
class Reduced:
    """A batch whose pictures have lost tokens.

    Args:
        inputs: what `generate` or the model is to be called with instead.
        kept: what stays of every picture, in the order of the prompts.
        place: [B S'] int64, the place that each token had in the full prompt, -1 in padding.
    """

    inputs: dict[str, Any]
    kept: list[Kept]
    place: Tensor


@dataclass(eq=False)
class Applied:
    """A budget that is on a model. `kept` is what stayed of the pictures of the last call."""

    family: Family
    method: BudgetMethod
    budget: Budget
    kept: list[Kept] | None = None
    processor: Any = None  # what wrote the prompts, where we know


def apply(
    model: nn.Module,
    budget: float | int | Budget = 0.2,
    method: str | BudgetMethod = "hired",
    *,
    encoder: Sequence[Step] | str | None = None,
    **options: Any,
) -> nn.Module:
    """Give `model` a token budget: every picture of every later call keeps no more tokens than that.

    `generate` and calls of the model itself take what they took before, and put out what they put out before: the
    returned sequences begin with the prompt as it was given. Nothing of the model's weights changes.

    Args:
        model: a model of Hugging Face's with a vision encoder, see `foveate list budgets`.
        budget: a share of a picture's tokens (float up to 1) or a number of them (int).
        method: a name of `foveate.budgets.BUDGETS`, or one made already.
        encoder: what the vision encoder's own blocks merge, as `tome:8` (a method and tokens a block) or as steps; of
            LLaVA's kin. The encoder's part of the time falls; what it costs in quality is not measured here.
        options: of the method, by name.

    Returns:
        the same model.

    Raises:
        InputError: a model, a method or a budget that is not known, or a model that has a budget.

    Example:
        model = foveate.vlm.apply(AutoModelForImageTextToText.from_pretrained("llava-hf/llava-v1.6-mistral-7b-hf"), 0.2)
        model.generate(**processor(images=picture, text=prompt, return_tensors="pt"))
    """
    if hasattr(model, ATTRIBUTE):
        raise InputError(f"{type(model).__name__} has a token budget; take it off with foveate.vlm.remove first")
    applied = Applied(family_of(model), made(method, options), Budget.parse(budget))
    needs_encoder_outputs(model)
    if encoder is not None:
        applied.family.reduce_encoder(encoder)
    setattr(model, ATTRIBUTE, applied)
    model.generate = _generate(model, applied)  # type: ignore[assignment]
    model.forward = _forward(model, applied)
    return model


def remove(model: nn.Module) -> nn.Module:
    """Take the budget off: the model is as it was.

    Raises:
        InputError: a model that has none.
    """
    if not hasattr(model, ATTRIBUTE):
        raise InputError(f"{type(model).__name__} has no token budget")
    for name in ("generate", "forward", ATTRIBUTE):
        delattr(model, name)
    return model


def applied_to(model: nn.Module) -> Applied:
    """The budget on a model, with what it kept last.

    Raises:
        InputError: a model that has none.
    """
    if not hasattr(model, ATTRIBUTE):
        raise InputError(f"{type(model).__name__} has no token budget")
    return getattr(model, ATTRIBUTE)


def made(method: str | BudgetMethod, options: Mapping[str, Any]) -> BudgetMethod:
    """A method by its name and options.

    Raises:
        InputError: an unknown name, or an option that it has not.
    """
    if isinstance(method, BudgetMethod):
        if options:
            raise InputError(f"options {', '.join(options)} belong to a method that is named, not to one made already")
        return method
    cls = BUDGETS[method]
    allowed = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
    for name in options:
        if name not in allowed:
            raise InputError(f"{method} has no option {name!r}; allowed: {', '.join(allowed) or 'none'}")
    return cls(**options)


def needs_encoder_outputs(model: nn.Module) -> None:
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        import transformers

        raise InputError(
            f"transformers {transformers.__version__}: {type(model).__name__} takes no mm_encoder_outputs; "
            "foveate needs a version that does (5.23 and later)"
        )


class Clock:
    """Milliseconds by stage, of whatever ran since the last lap."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.ms = device, dict[str, float]()
        self.last = self._now()

    def lap(self, stage: str) -> None:
        now = self._now()
        self.ms[stage] = self.ms.get(stage, 0.0) + 1000 * (now - self.last)
        self.last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@torch.no_grad()
def reduce(
    family: Family,
    method: BudgetMethod,
    budget: Budget,
    inputs: Mapping[str, Any],
    *,
    always: bool = False,
    clock: Clock | None = None,
) -> Reduced | None:
    """Encode the pictures, decide what stays and shorten the prompts.

    Args:
        always: go the whole way where everything stays, too; what the host then puts out is the same.
        clock: hears of the stages encode, select and project.

    Returns:
        None where everything stays: the model is then to be called as it would have been.

    Raises:
        InputError: prompts and pictures that do not belong together.
    """
    if inputs.get("pixel_values_videos") is not None:
        raise InputError("pixel_values_videos: a budget is for pictures; pass the frames of a video as pictures")
    tilings = family.tilings(inputs)
    prompts = prompt.read(inputs, family.image_token, tilings)
    whole = all(budget.of(tiling) >= tiling.tokens for tiling in tilings)
    if whole and not always and not family.reduces_encoder:
        return None
    lap = (lambda stage: None) if clock is None else clock.lap
    looks = family.looks(inputs, tilings, method.needs)
    lap("encode")
    kept, features, deep = [], [], []
    for look in looks:
        sight = look.sight
        if "projected" in method.needs:
            everything = torch.arange(len(look.sources), device=look.sources.device)
            sight = sight._replace(projected=mixed(look, everything, family.project))
            look = replace(look, sight=sight)
        stays = method.keep(sight, budget)
        lap("select")
        kept.append(stays)
        features.append(assembled(look, stays, family.project, family.newline()))
        deep.append(family.deep_features(look, stays))
        lap("project")
    short, place = prompt.shorten(prompts, kept)
    checked(kept, features, short)
    changed = {name: value for name, value in inputs.items() if name not in OF_PICTURES}
    changed |= {"input_ids": short.ids, "attention_mask": short.mask, **short.others}
    changed["mm_encoder_outputs"] = {"image": family.output(features, deep)}
    changed |= positions(family, method, inputs, prompts, place)
    lap("project")
    return Reduced(changed, kept, place)


def checked(kept: list[Kept], features: list[Tensor], prompts: prompt.Prompts) -> None:
    """Every prompt has as many places as its pictures have tokens; the host checks the sum over a batch alone."""
    for n, (stays, tokens, (_, places)) in enumerate(zip(kept, features, prompts.places, strict=True)):
        if not len(stays.rows) == len(tokens) == len(places) or bool((places < 0).any()):
            raise AssertionError(f"picture {n}: {len(stays.rows)} kept, {len(tokens)} tokens, {len(places)} places")


def positions(
    family: Family, method: BudgetMethod, inputs: Mapping[str, Any], prompts: prompt.Prompts, place: Tensor
) -> dict[str, Any]:
    """Position ids, where what stays keeps those it had."""
    filled, index = place >= 0, place.clamp(min=0)
    full, tell = family.positions(inputs)
    if full is not None:  # [axes B S]: the host puts the place in the sequence before them
        own = torch.where(filled, full.gather(2, index.expand(len(full), -1, -1)), 1)
        text = (filled.long().cumsum(1) - 1).clamp(min=0)
        if tell is not None:
            tell(prompts.mask.sum(1) - filled.sum(1))
        return {"position_ids": torch.cat([text[None], own])}
    given = inputs.get("position_ids")
    if given is None and method.positions == "compact":
        return {}
    if given is None:
        given = (prompts.mask.long().cumsum(1) - 1).clamp(min=0)
    return {"position_ids": torch.where(filled, given.gather(1, index), 0)}


def _generate(model: Any, applied: Applied) -> Callable[..., Any]:
    host = model.generate

    @functools.wraps(host)
    def generate(inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        if inputs is not None:
            kwargs["input_ids"] = inputs
        if not _has_pictures(kwargs):
            return host(*args, **kwargs)
        _refuse_cache(kwargs)
        reduced = reduce(applied.family, applied.method, applied.budget, kwargs)
        applied.kept = None if reduced is None else reduced.kept
        if reduced is None:
            return host(*args, **applied.family.known(kwargs))
        full, short = kwargs["input_ids"], reduced.inputs["input_ids"]
        for limit in ("max_length", "min_length"):  # they count the prompt
            if reduced.inputs.get(limit) is not None:
                reduced.inputs[limit] -= full.shape[1] - short.shape[1]
        with applied.family.bridged():
            out = host(*args, **reduced.inputs)
        if isinstance(out, Tensor):
            return with_prompt(out, full, short.shape[1])
        out.sequences = with_prompt(out.sequences, full, short.shape[1])
        return out

    return generate


def with_prompt(sequences: Tensor, full: Tensor, length: int) -> Tensor:
    """Sequences that begin with the prompts as they were given, in place of the shortened ones of `length`."""
    copies = len(sequences) // len(full)
    return torch.cat([full.repeat_interleave(copies, 0).to(sequences), sequences[:, length:]], 1)


def _forward(model: Any, applied: Applied) -> Callable[..., Any]:
    host = model.forward
    names = list(inspect.signature(host).parameters)

    @functools.wraps(host)
    def forward(*args: Any, **kwargs: Any) -> Any:
        kwargs |= dict(zip(names, args, strict=False))
        if not _has_pictures(kwargs):
            return host(**kwargs)
        _refuse_cache(kwargs)
        reduced = reduce(applied.family, applied.method, applied.budget, kwargs)
        applied.kept = None if reduced is None else reduced.kept
        if reduced is None:
            return host(**applied.family.known(kwargs))
        with applied.family.bridged():
            return host(**reduced.inputs)

    return forward


def _has_pictures(kwargs: Mapping[str, Any]) -> bool:
    pixels = [kwargs.get(name) for name in ("pixel_values", "pixel_values_videos")]
    return any(p is not None and len(p) > 0 for p in pixels)


def _refuse_cache(kwargs: Mapping[str, Any]) -> None:
    for name in ("cache", "past_key_values"):
        cache = kwargs.get(name)
        if cache is not None and cache.get_seq_length():
            raise InputError(
                f"{name} holds {cache.get_seq_length()} tokens: pictures can be added to a prompt that is new alone; "
                "give the whole chat without a cache"
            )

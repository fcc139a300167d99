"""Answering a question about pictures with a token budget, and what that took."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.budgets.count import Budget
from foveate.errors import InputError
from foveate.files import read_text

if TYPE_CHECKING:
    from foveate.vlm.limits import Limit

FILE = "budget.json"
Progress = Callable[[str, float, str], None]  # stage, share done, text


@dataclass(frozen=True)
class Answer:
    """What a model said of pictures.

    Args:
        text: the answer.
        tokens: of every picture, those that stayed and those it had.
        prompt_tokens: those of the whole prompt as the language model saw it.
        first_ms: from the pixels to the first token of the answer.
        total_ms: to the last.
        new_tokens: tokens of the answer.
        drawn: files on which is drawn what stayed.
    """

    text: str
    tokens: list[tuple[int, int]]
    prompt_tokens: int
    first_ms: float
    total_ms: float
    new_tokens: int
    drawn: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Setting:
    """A budget, and what it was found with where `vlm fit` found it."""

    budget: Budget
    method: str | None = None
    encoder: str | None = None


def parse(text: str) -> Setting:
    """A budget as it is written: 0.2 for a share, 576 for a number of tokens, or a folder that `vlm fit` wrote.

    Raises:
        InputError: none of them.
    """
    if text and Path(text).exists():
        return setting_of(Path(text))
    try:
        return Setting(Budget.parse(float(text) if "." in text or "e" in text.lower() else int(text)))
    except InputError:
        raise
    except ValueError:
        raise InputError(
            f"--budget {text!r}; allowed: a share such as 0.2, a number of tokens a picture such as 576, or a folder "
            "that foveate vlm fit wrote"
        ) from None


def setting_of(path: Path) -> Setting:
    """What `foveate vlm fit` found.

    Raises:
        InputError: no such file, a damaged one, or one in which nothing was found.
    """
    file = path / FILE if path.is_dir() else path
    try:
        found = json.loads(read_text(file))
        tokens, method, encoder = found["tokens"], found.get("method"), found.get("encoder")
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{file} is no budget that foveate vlm fit wrote: {type(e).__name__}: {e}") from None
    if tokens is None:
        raise InputError(f"{file} found no budget: {str(found.get('reason', ''))[:300]}")
    if type(tokens) is not int:
        raise InputError(f"{file} is damaged: tokens is {str(tokens)[:80]!r}")
    for name, value in (("method", method), ("encoder", encoder)):
        if value is not None and not isinstance(value, str):
            raise InputError(f"{file} is damaged: {name} is {str(value)[:80]!r}")
    return Setting(Budget(tokens=tokens), method, encoder)


def prepared(
    name: str,
    images: Sequence[Path],
    prompt: str,
    budget: Budget,
    method: str,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    allow_pickle: bool = False,
    threads: int | None = None,
    encoder: str | None = None,
) -> tuple[Any, dict[str, Any]]:
    """A model with a budget on it, and the question as it takes it.

    Raises:
        InputError: a model, picture or method that cannot be used.
    """
    from foveate.budgets.registered import BUDGETS
    from foveate.preprocess import read_image

    BUDGETS[method]  # raises with what is known, before anything is loaded
    pictures = [read_image(path) for path in images]
    import torch

    from foveate import vlm
    from foveate.vlm.loading import inputs, load

    if threads is not None:
        torch.set_num_threads(threads)
    model, processor = load(name, device=device, precision=precision, allow_pickle=allow_pickle)
    vlm.apply(model, budget, method, encoder=encoder)
    vlm.applied_to(model).processor = processor
    asked = inputs(processor, pictures, prompt)
    asked = {key: value.to(device) if hasattr(value, "to") else value for key, value in asked.items()}
    if "pixel_values" in asked:
        asked["pixel_values"] = asked["pixel_values"].to(model.dtype)
    return model, asked


def answer(
    name: str,
    images: Sequence[Path],
    prompt: str,
    *,
    budget: Budget | None = None,
    ttft_ms: float | None = None,
    memory_gb: float | None = None,
    method: str = "hired",
    max_new_tokens: int = 64,
    device: str = "cpu",
    precision: str = "fp32",
    allow_pickle: bool = False,
    threads: int | None = None,
    encoder: str | None = None,
    draw: Path | None = None,
    progress: Progress = lambda *_: None,
) -> Answer:
    """Load a model and ask it.

    Args:
        budget: of tokens; or one of `ttft_ms` and `memory_gb`, within which the most tokens are searched first.
        encoder: what the encoder's own blocks merge, such as tome:8.
        draw: a folder for a PNG a picture, on which what is dropped is faded.

    Raises:
        InputError: a model, picture, method or budget that cannot be used.
    """
    if max_new_tokens < 1:
        raise InputError(f"--max-new-tokens {max_new_tokens}: at least 1")
    if budget is None:
        from foveate.vlm.limits import Limit

        limit = Limit.of(ttft_ms, memory_gb)
    elif ttft_ms is not None or memory_gb is not None:
        raise InputError("give --budget, --ttft-ms or --memory-gb, one of them")
    progress("load", 0.0, name)
    model, asked = prepared(
        name, images, prompt, budget or Budget(ratio=1.0), method,
        device=device, precision=precision, allow_pickle=allow_pickle, threads=threads,
        encoder=encoder,
    )  # fmt: skip
    from foveate.vlm import applied_to

    if budget is None:
        applied_to(model).budget = searched(model, asked, limit, progress)
    progress("answer", 0.5, f"{len(images)} picture{'s' if len(images) != 1 else ''}")
    clock = _FirstToken()
    start = time.perf_counter()
    out = model.generate(**asked, max_new_tokens=max_new_tokens, do_sample=False, streamer=clock)
    end = time.perf_counter()
    length = asked["input_ids"].shape[1]
    applied = applied_to(model)
    full = [tiling.tokens for tiling in applied.family.tilings(asked)] if images else []
    stayed = [len(kept.rows) for kept in applied.kept] if applied.kept else full
    drawn = [] if draw is None else drawings(images, applied, asked, draw)
    return Answer(
        text=applied.processor.batch_decode(out[:, length:], skip_special_tokens=True)[0].strip(),
        tokens=list(zip(stayed, full, strict=True)),
        prompt_tokens=length - sum(full) + sum(stayed),
        first_ms=1000 * ((clock.first or end) - start),
        total_ms=1000 * (end - start),
        new_tokens=out.shape[1] - length,
        drawn=drawn,
    )


def searched(model: Any, asked: Mapping[str, Any], limit: "Limit", progress: Progress) -> Budget:
    """The most tokens within a limit, on this question; measured, and not proven as `fit` does.

    Raises:
        InputError: no count keeps within it.
    """
    from foveate.vlm import applied_to
    from foveate.vlm.limits import within_limit
    from foveate.vlm.measuring import first_token_ms, values_of

    tilings = applied_to(model).family.tilings(asked)
    if not tilings:
        raise InputError(f"{limit}: a budget of tokens is of pictures, and there are none")
    first_token_ms(model, asked)
    found = within_limit(
        values_of(model, asked, limit), limit.value, max(t.tokens for t in tilings), repeats=3,
        tell=lambda n, value: progress("search", 0.3, f"{n} tokens: {value:.4g} {limit.unit}"),
    )  # fmt: skip
    if found.tokens is None:
        raise InputError(f"no budget of tokens keeps within {limit}: with one token it is {found.seen[1]:.4g}")
    return Budget(tokens=found.tokens)


def drawings(images: Sequence[Path], applied: Any, asked: Mapping[str, Any], folder: Path) -> list[str]:
    """A PNG a picture, with what stayed of it in the last call."""
    from foveate.files import replacing
    from foveate.preprocess import read_image
    from foveate.report.tokens import kept_tokens

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for n, (path, tiling) in enumerate(zip(images, applied.family.tilings(asked), strict=True)):
        cells = applied.kept[n].cells.tolist() if applied.kept else range(tiling.cells)
        name = folder / f"{n}-{path.stem}.png"
        with replacing(name) as part:
            kept_tokens(read_image(path), tiling, cells).save(part, format="PNG")
        paths.append(str(name))
    return paths


class _FirstToken:
    """Notes when the first token comes: `generate` hands over the prompt, then tokens as they are made."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.calls = 0

    def put(self, value: Any) -> None:
        self.calls += 1
        if self.calls == 2:
            self.first = time.perf_counter()

    def end(self) -> None:
        pass

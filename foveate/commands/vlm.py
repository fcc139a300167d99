"""Answering a question about pictures with a token budget, and what that took."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.budgets.count import Budget
from foveate.errors import InputError

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
    """

    text: str
    tokens: list[tuple[int, int]]
    prompt_tokens: int
    first_ms: float
    total_ms: float
    new_tokens: int


def parse(text: str) -> Budget:
    """A budget as it is written: 0.2 for a share, 576 for a number of tokens.

    Raises:
        InputError: neither.
    """
    try:
        return Budget.parse(float(text) if "." in text or "e" in text.lower() else int(text))
    except ValueError as e:
        if isinstance(e, InputError):
            raise
        raise InputError(
            f"--budget {text!r}; allowed: a share such as 0.2, or a number of tokens a picture such as 576"
        ) from None


def answer(
    name: str,
    images: Sequence[Path],
    prompt: str,
    *,
    budget: Budget,
    method: str = "hired",
    max_new_tokens: int = 64,
    device: str = "cpu",
    precision: str = "fp32",
    allow_pickle: bool = False,
    progress: Progress = lambda *_: None,
) -> Answer:
    """Load a model and ask it.

    Raises:
        InputError: a model, picture, method or budget that cannot be used.
    """
    from foveate.budgets.registered import BUDGETS
    from foveate.preprocess import read_image

    if method not in BUDGETS:
        BUDGETS[method]  # raises, with what is known
    if max_new_tokens < 1:
        raise InputError(f"--max-new-tokens {max_new_tokens}: at least 1")
    pictures = [read_image(path) for path in images]
    from foveate import vlm
    from foveate.vlm.loading import inputs, load

    progress("load", 0.0, name)
    model, processor = load(name, device=device, precision=precision, allow_pickle=allow_pickle)
    vlm.apply(model, budget, method)
    asked = {
        key: value.to(device) if hasattr(value, "to") else value
        for key, value in inputs(processor, pictures, prompt).items()
    }
    if "pixel_values" in asked:
        asked["pixel_values"] = asked["pixel_values"].to(model.dtype)
    progress("answer", 0.5, f"{len(pictures)} picture{'s' if len(pictures) != 1 else ''}")
    clock = _FirstToken()
    start = time.perf_counter()
    out = model.generate(**asked, max_new_tokens=max_new_tokens, do_sample=False, streamer=clock)
    end = time.perf_counter()
    length = asked["input_ids"].shape[1]
    applied = vlm.applied_to(model)
    tilings = applied.family.tilings(asked) if pictures else []
    stayed = [len(kept.rows) for kept in applied.kept] if applied.kept else [t.tokens for t in tilings]
    full = [t.tokens for t in tilings]
    return Answer(
        text=processor.batch_decode(out[:, length:], skip_special_tokens=True)[0].strip(),
        tokens=list(zip(stayed, full, strict=True)),
        prompt_tokens=length - sum(full) + sum(stayed),
        first_ms=1000 * ((clock.first or end) - start),
        total_ms=1000 * (end - start),
        new_tokens=out.shape[1] - length,
    )


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

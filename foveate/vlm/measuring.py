"""How long a model that sees takes to its first token, stage by stage, and what memory it takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from foveate.budgets.count import Budget
from foveate.budgets.registered import BudgetMethod
from foveate.errors import NotAvailable
from foveate.files import read_text
from foveate.vlm._base import Family
from foveate.vlm.applying import Clock, applied_to, reduce
from foveate.vlm.limits import Limit

GB = 1e9
STATUS, CLEAR = "/proc/self/status", "/proc/self/clear_refs"


@dataclass(frozen=True)
class Stages:
    """Milliseconds of one answer's stages."""

    encode_ms: float  # the vision encoder, up to the projector
    select_ms: float  # scoring, allocation, selection
    project_ms: float  # what stays, projected and put into the prompt
    prefill_ms: float  # the language model over the prompt
    decode_ms: float  # each further token

    @property
    def first_ms(self) -> float:
        return self.encode_ms + self.select_ms + self.project_ms + self.prefill_ms


def values_of(model: Any, inputs: Mapping[str, Any], limit: Limit) -> Callable[[int, int], list[float]]:
    """(tokens, times) -> as many values of what is limited, each of one run to the first token."""
    run = lambda tokens: first_token_ms(model, inputs, tokens)
    if limit.unit == "ttft_ms":
        return lambda tokens, times: [run(tokens) for _ in range(times)]
    return lambda tokens, times: [peak_bytes(lambda: run(tokens), model.device) / GB for _ in range(times)]


def first_token_ms(
    model: Any, inputs: Mapping[str, Any], tokens: int | None = None, *, family: Family | None = None
) -> float:
    """One run of a model that has a budget, from pixels to the first token.

    Args:
        tokens: the budget of this run, a picture; None for the model's own.
        family: other hooks for this run: those of the plain model, beside an encoder that is reduced.
    """
    applied = applied_to(model)
    was = applied.family
    if tokens is not None:
        applied.budget = Budget(tokens=tokens)
    applied.family = family or was
    try:
        clock = Clock(model.device)
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
        clock.lap("first")
        return clock.ms["first"]
    finally:
        applied.family = was


@torch.no_grad()
def stages(family: Family, method: BudgetMethod, budget: Budget, inputs: Mapping[str, Any], *, new: int = 5) -> Stages:
    """Time one answer of 1 + `new` tokens, greedily, piece by piece."""
    model: Any = family.model
    clock = Clock(model.device)
    reduced = reduce(family, method, budget, inputs, always=True, clock=clock)
    assert reduced is not None
    asked = {k: v for k, v in reduced.inputs.items() if k != "mm_token_type_ids"}
    with family.bridged():
        out = model(**asked, use_cache=True, logits_to_keep=1)
    clock.lap("prefill")
    mask, cache = asked["attention_mask"], out.cache if hasattr(out, "cache") else out.past_key_values
    last = asked.get("position_ids")
    position = None if last is None else last[..., -1:].clone()
    key = "cache" if hasattr(out, "cache") else "past_key_values"
    for _ in range(new):
        token = out.logits[:, -1:].argmax(-1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        more = {}
        if position is not None:
            position = position + 1
            more["position_ids"] = position
        out = model(input_ids=token, attention_mask=mask, use_cache=True, **{key: cache}, **more)
    clock.lap("decode")
    ms = clock.ms
    return Stages(ms["encode"], ms["select"], ms["project"], ms["prefill"], ms["decode"] / new)


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most memory that was in use while `run` ran, weights included: of the device, or of this process.

    Raises:
        NotAvailable: a system that does not tell it.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device)
    try:
        with open(CLEAR, "w") as file:  # noqa: PTH123  of this process; nothing is stored
            file.write("5")  # the peak begins anew
        before = _status("VmRSS")
    except (OSError, KeyError):
        raise NotAvailable("the peak of memory is not told here; Linux with /proc, or a GPU, tells it") from None
    run()
    return max(before, _status("VmHWM"))


def _status(name: str) -> int:
    from pathlib import Path

    lines = dict(line.split(":", 1) for line in read_text(Path(STATUS)).splitlines() if ":" in line)
    return 1024 * int(lines[name].split()[0])

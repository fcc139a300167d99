"""The token budget that keeps within milliseconds or gigabytes on this machine, proven by measuring."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from foveate.budgets.count import Budget
from foveate.commands.vlm import Progress, prepared
from foveate.errors import InputError
from foveate.files import write_text
from foveate.hardware.device import device_facts
from foveate.hardware.timer import Speedup, busy, proven

FILE = "budget.json"
ATTEMPTS = 3  # searches, each with a limit so much lower, where what was found did not hold when it was proven
SLACK = 0.03


@dataclass(frozen=True)
class Fitted:
    """What a search for a budget came to.

    Args:
        tokens: a picture; None where no count keeps the limit, or none is proven faster.
        kept: of every picture, the tokens that stay and those it had.
        limit: {"ttft_ms": ...} or {"memory_gb": ...}.
        value: the median of what is limited, with `tokens`, or with the count that did not hold.
        floor: the same with one token a picture, what no budget of tokens gets below; None where it was not asked.
        measured: the medians of every count that was tried.
        encoder: what the encoder's own blocks merge.
        first_ms: medians of the time to the first token: {"all": ..., "kept": ...}.
        speedup: of the first token over all tokens, in pairs; None where all tokens stay.
        stages: milliseconds by stage, {"all": {...}, "kept": {...}}.
        peak_gb: peak memory, weights included, where it is told.
        reason: one line.
        machine, notes: what it was measured on, and what else ran there.
    """

    model: str
    method: str
    tokens: int | None
    kept: list[tuple[int, int]]
    limit: dict[str, float]
    value: float | None
    floor: float | None
    measured: dict[int, float]
    encoder: str | None
    first_ms: dict[str, float]
    speedup: Speedup | None
    stages: dict[str, dict[str, float]]
    peak_gb: dict[str, float]
    reason: str
    machine: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def met(self) -> bool:
        return self.tokens is not None


def fit(
    name: str,
    images: Sequence[Path],
    prompt: str,
    *,
    ttft_ms: float | None = None,
    memory_gb: float | None = None,
    method: str = "hired",
    device: str = "cpu",
    precision: str = "fp32",
    allow_pickle: bool = False,
    threads: int | None = None,
    encoder: str | None = None,
    pairs: int = 64,
    out: Path | None = None,
    progress: Progress = lambda *_: None,
) -> Fitted:
    """Find the most tokens a picture with which the model keeps within the limit on this machine, on this question.

    Args:
        ttft_ms: milliseconds to the first token, the median of which is to keep within.
        memory_gb: gigabytes (10^9 bytes) that may be in use at most, weights included.
        encoder: what the encoder's own blocks merge, such as tome:8; what it is compared with has all of it.
        pairs: runs with all tokens and with the budget, by turns, at least so many and at most four times as many,
            until it is proven which is faster.
        out: a folder for `budget.json`, which `--budget FOLDER` and `budget_of` read.

    Raises:
        InputError: no limit or two, a limit that is none, a model or picture that cannot be used.
    """
    from foveate.vlm.limits import Limit, within_limit

    limit = Limit.of(ttft_ms, memory_gb)
    if not images:
        raise InputError("--image: a budget is fitted on at least one picture")
    progress("load", 0.0, name)
    model, asked = prepared(
        name, images, prompt, Budget(ratio=1.0), method,
        device=device, precision=precision, allow_pickle=allow_pickle, threads=threads,
        encoder=encoder,
    )  # fmt: skip
    from foveate.vlm import applied_to, family_of
    from foveate.vlm.measuring import first_token_ms, values_of

    applied, plain = applied_to(model), family_of(model)
    tilings = applied.family.tilings(asked)
    most = max(tiling.tokens for tiling in tilings)
    load = busy()
    first_token_ms(model, asked, most)  # warm

    share = iter(np.linspace(0.05, 0.6, 80))
    first = {"all": median(first_token_ms(model, asked, most, family=plain) for _ in range(3))}
    tokens, speed, reason = None, None, ""
    for attempt in range(ATTEMPTS):
        found = within_limit(
            values_of(model, asked, limit), limit.value * (1 - SLACK * attempt), most,
            tell=lambda n, value: progress("search", next(share, 0.6), f"{n} tokens: {value:.4g} {limit.unit}"),
        )  # fmt: skip
        tokens, value = found.tokens, found.seen.get(found.tokens or 0)
        if tokens is None:
            reason = f"no budget of tokens keeps within {limit}: with one token a picture it is {found.seen[1]:.4g}"
            break
        if tokens >= most and encoder is None:
            reason = f"all {most} tokens keep within {limit}: nothing is dropped"
            break
        progress("prove", 0.65, f"{tokens} of {most} tokens against all of them, by turns")
        speed, all_ms, kept_ms = proven(_by_turns(model, asked, most, tokens, plain), first=pairs, most=4 * pairs)
        first = {"all": float(np.median(all_ms)), "kept": float(np.median(kept_ms))}
        value = first["kept"] if limit.unit == "ttft_ms" else value
        reason = f"{tokens} of {most} tokens keep within {limit}; the first token comes {speed} sooner"
        if not speed.faster:
            tokens, reason = None, f"not proven faster than all tokens: {reason}"
            break
        if value is not None and value <= limit.value:
            break
        # the machine has become slower since the search, or the search was lucky
        reason = f"{tokens} of {most} tokens took {value:.4g} when they were proven, which is not within {limit}"
        tokens = None
    progress("stages", 0.9, "where the time goes")
    budgets = {"all": Budget(ratio=1.0), **({"kept": Budget(tokens=tokens)} if tokens is not None else {})}
    peaks, split = {}, {}
    for which, budget in budgets.items():
        family = plain if which == "all" else applied.family
        split[which] = _stages(family, applied.method, budget, asked)
        applied.budget = budget
        run = lambda family=family: first_token_ms(model, asked, family=family)
        if (peak := _peak(run, model.device)) is not None:
            peaks[which] = peak
    kept = [(min(tokens or t.tokens, t.tokens), t.tokens) for t in tilings]
    fitted = Fitted(
        model=name,
        method=method,
        tokens=tokens,
        kept=kept,
        limit={limit.unit: limit.value},
        value=value,
        floor=found.seen.get(1),
        measured=found.seen,
        encoder=encoder,
        first_ms=first,
        speedup=speed,
        stages=split,
        peak_gb=peaks,
        reason=reason,
        machine=device_facts(),
        notes=load.notes,
    )
    if out is not None:
        write(fitted, out)
    return fitted


def write(fitted: Fitted, folder: Path) -> Path:
    """`budget.json` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schema_version": 1, **asdict(fitted)}, indent=1, default=str, allow_nan=True)
    return write_text(folder / FILE, text + "\n")


def _by_turns(
    model: Any, asked: Mapping[str, Any], most: int, tokens: int, plain: Any
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    from foveate.vlm.measuring import first_token_ms

    lot = np.random.default_rng(0)

    def measure(pairs: int) -> tuple[np.ndarray, np.ndarray]:
        rows = []
        for _ in range(pairs):
            turns = {"all": lambda: first_token_ms(model, asked, most, family=plain),
                     "kept": lambda: first_token_ms(model, asked, tokens)}  # fmt: skip
            order = ("all", "kept") if lot.random() < 0.5 else ("kept", "all")
            ms = {which: turns[which]() for which in order}
            rows.append((ms["all"], ms["kept"]))
        base, other = np.array(rows).T
        return base, other

    return measure


def _stages(family: Any, method: Any, budget: Budget, asked: Mapping[str, Any]) -> dict[str, float]:
    from foveate.vlm.measuring import stages

    rows = [asdict(stages(family, method, budget, asked)) for _ in range(3)]
    return {key: median(row[key] for row in rows) for key in rows[0]}


def _peak(run: Callable[[], object], device: Any) -> float | None:
    from foveate.errors import NotAvailable
    from foveate.vlm.measuring import GB, peak_bytes

    try:
        return peak_bytes(run, device) / GB
    except NotAvailable:
        return None

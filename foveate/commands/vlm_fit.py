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
GB = 1e9


@dataclass(frozen=True)
class Fitted:
    """What a search for a budget came to.

    Args:
        tokens: a picture; None where no count keeps the limit, or none is proven faster.
        kept: of every picture, the tokens that stay and those it had.
        limit: {"ttft_ms": ...} or {"memory_gb": ...}.
        value: the median of what is limited, with `tokens`.
        floor: the same with one token a picture: what no budget of tokens gets below.
        measured: the medians of every count that was tried.
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
    floor: float
    measured: dict[int, float]
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
    pairs: int = 64,
    out: Path | None = None,
    progress: Progress = lambda *_: None,
) -> Fitted:
    """Find the most tokens a picture with which the model keeps within the limit on this machine, on this question.

    Args:
        ttft_ms: milliseconds to the first token, the median of which is to keep within.
        memory_gb: gigabytes (10^9 bytes) that may be in use at most, weights included.
        pairs: runs with all tokens and with the budget, by turns, at least so many and at most four times as many,
            until it is proven which is faster.
        out: a folder for `budget.json`, which `--budget FOLDER` and `budget_of` read.

    Raises:
        InputError: no limit or two, a limit that is none, a model or picture that cannot be used.
    """
    if (ttft_ms is None) == (memory_gb is None):
        raise InputError("give one limit: --ttft-ms or --memory-gb")
    if not images:
        raise InputError("--image: a budget is fitted on at least one picture")
    limit = {"ttft_ms": ttft_ms} if ttft_ms is not None else {"memory_gb": memory_gb}
    ((unit, most_allowed),) = limit.items()
    if not 0 < most_allowed < float("inf"):  # type: ignore[operator]
        raise InputError(f"--{unit.replace('_', '-')} {most_allowed}; allowed: above 0")
    progress("load", 0.0, name)
    model, asked = prepared(
        name, images, prompt, Budget(ratio=1.0), method,
        device=device, precision=precision, allow_pickle=allow_pickle, threads=threads,
    )  # fmt: skip
    from foveate.vlm import applied_to
    from foveate.vlm.limits import within_limit
    from foveate.vlm.measuring import first_token_ms, peak_bytes

    applied = applied_to(model)
    tilings = applied.family.tilings(asked)
    most = max(tiling.tokens for tiling in tilings)
    load = busy()
    first_token_ms(model, asked, most)  # warm

    def values(tokens: int, times: int) -> list[float]:
        if unit == "ttft_ms":
            return [first_token_ms(model, asked, tokens) for _ in range(times)]
        return [peak_bytes(lambda: first_token_ms(model, asked, tokens), model.device) / GB for _ in range(times)]

    share = iter(np.linspace(0.05, 0.6, 40))
    found = within_limit(
        values, most_allowed, most,  # type: ignore[arg-type]
        tell=lambda tokens, value: progress("search", next(share, 0.6), f"{tokens} tokens: {value:.4g} {unit}"),
    )  # fmt: skip
    tokens, speed = found.tokens, None
    wanted = f"{most_allowed:g} ms to the first token" if unit == "ttft_ms" else f"{most_allowed:g} GB"
    first = {"all": median(first_token_ms(model, asked, most) for _ in range(3))}
    if tokens is None:
        reason = f"no budget of tokens keeps within {wanted}: with one token a picture it is {found.seen[1]:.4g}"
    elif tokens >= most:
        reason = f"all {most} tokens keep within {wanted}: nothing is dropped"
    else:
        progress("prove", 0.65, f"{tokens} of {most} tokens against all of them, by turns")
        speed, all_ms, kept_ms = proven(_by_turns(model, asked, most, tokens), first=pairs, most=4 * pairs)
        first = {"all": float(np.median(all_ms)), "kept": float(np.median(kept_ms))}
        reason = f"{tokens} of {most} tokens keep within {wanted}; the first token comes {speed} sooner"
        if not speed.faster:
            tokens, reason = None, f"not proven faster than all tokens: {reason}"
    progress("stages", 0.9, "where the time goes")
    budgets = {"all": Budget(ratio=1.0), **({"kept": Budget(tokens=tokens)} if tokens is not None else {})}
    peaks, split = {}, {}
    for which, budget in budgets.items():
        split[which] = _stages(applied, budget, asked)
        applied.budget = budget
        if (peak := _peak(lambda: first_token_ms(model, asked), model.device)) is not None:
            peaks[which] = peak
    kept = [(min(tokens or t.tokens, t.tokens), t.tokens) for t in tilings]
    value = None if tokens is None else found.seen.get(tokens)
    if tokens is not None and unit == "ttft_ms" and "kept" in first:
        value = first["kept"]
    fitted = Fitted(
        name, method, tokens, kept, limit, value, found.seen.get(1, float("nan")), found.seen, first,  # type: ignore[arg-type]
        speed, split, peaks, reason, device_facts(), load.notes,
    )  # fmt: skip
    if out is not None:
        write(fitted, out)
    return fitted


def write(fitted: Fitted, folder: Path) -> Path:
    """`budget.json` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"schema_version": 1, **asdict(fitted)}, indent=1, default=str, allow_nan=True)
    return write_text(folder / FILE, text + "\n")


def _by_turns(
    model: Any, asked: Mapping[str, Any], most: int, tokens: int
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    from foveate.vlm.measuring import first_token_ms

    lot = np.random.default_rng(0)

    def measure(pairs: int) -> tuple[np.ndarray, np.ndarray]:
        rows = []
        for _ in range(pairs):
            order = (most, tokens) if lot.random() < 0.5 else (tokens, most)
            ms = {count: first_token_ms(model, asked, count) for count in order}
            rows.append((ms[most], ms[tokens]))
        base, other = np.array(rows).T
        return base, other

    return measure


def _stages(applied: Any, budget: Budget, asked: Mapping[str, Any]) -> dict[str, float]:
    from foveate.vlm.measuring import stages

    rows = [asdict(stages(applied.family, applied.method, budget, asked)) for _ in range(3)]
    return {key: median(row[key] for row in rows) for key in rows[0]}


def _peak(run: Callable[[], object], device: Any) -> float | None:
    from foveate.errors import NotAvailable
    from foveate.vlm.measuring import peak_bytes

    try:
        return peak_bytes(run, device) / GB
    except NotAvailable:
        return None

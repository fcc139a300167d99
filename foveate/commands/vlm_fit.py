"""The token budget that keeps within milliseconds or gigabytes on this machine, proven by measuring."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from foveate.budgets.count import Budget
from foveate.commands.vlm import FILE, Progress, drawings, prepared
from foveate.errors import InputError
from foveate.files import write_text
from foveate.hardware.device import device_facts
from foveate.hardware.timer import Speedup, busy

if TYPE_CHECKING:
    from foveate.vlm.fitting import Case, Option, Proof
    from foveate.vlm.limits import Limit

ATTEMPTS = 3  # searches, each with a limit so much lower, where what was found did not hold when it was proven
SLACK = 0.03


@dataclass(frozen=True)
class Fitted:
    """What a search for a budget came to.

    Args:
        tokens: a picture; None where no count keeps the limit, or none is proven faster.
        kept: of every picture, the tokens that stay and those it had.
        per_part: of every picture, the cells that stay of its whole view and of each of its tiles.
        limit: {"ttft_ms": ...} or {"memory_gb": ...}.
        value: the median of what is limited, with `tokens`, or with the count that did not hold.
        floor: the same with one token a picture, what no budget of tokens gets below; None where it was not asked.
        measured: the medians of every count that was tried.
        encoder: what the encoder's own blocks merge, as it was asked for or found.
        options: everything that the encoder was tried with: the tokens found for it and what they cost.
        first_ms: medians of the time to the first token: {"all": ..., "kept": ...}.
        speedup: of the first token over all tokens, in pairs; None where all tokens stay.
        stages: milliseconds by stage, {"all": {...}, "kept": {...}}.
        peak_gb: peak memory, weights included, where it is told.
        cost: on the question that was asked: {"kl": nats a token, "agreement": share of the answer's tokens}.
        curve: the same at shares of the tokens, with this encoder.
        drawn: files on which is drawn what stays.
        reason: one line.
        machine, notes: what it was measured on, and what else ran there.
    """

    model: str
    method: str
    prompt: str
    tokens: int | None
    kept: list[tuple[int, int]]
    per_part: list[tuple[int, ...]]
    limit: dict[str, float]
    value: float | None
    floor: float | None
    measured: dict[int, float]
    encoder: str | None
    options: list[dict[str, Any]]
    first_ms: dict[str, float]
    speedup: Speedup | None
    stages: dict[str, dict[str, float]]
    peak_gb: dict[str, float]
    cost: dict[str, float] | None
    curve: list[dict[str, Any]]
    drawn: list[str]
    reason: str
    machine: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def met(self) -> bool:
        return self.tokens is not None


@dataclass(frozen=True, eq=False)
class Verdict:
    """The option that is handed back, with its proof; or the last one looked at, and why it is not."""

    option: "Option"
    options: "list[Option]"
    proof: "Proof | None"
    met: bool
    value: float | None
    reason: str


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
        encoder: what the encoder's own blocks merge, such as tome:8; `search` tries how much, and takes what costs
            least on the question. What it is compared with has all of the encoder.
        pairs: runs with all tokens and with the budget, by turns, at least so many and at most four times as many,
            until it is proven which is faster.
        out: a folder for `budget.json`, which `--budget FOLDER` reads, for `report.html`, and for the pictures with
            what stays of them.

    Raises:
        InputError: no limit or two, a limit that is none, a model or picture that cannot be used.
    """
    from foveate.vlm.limits import Limit

    limit = Limit.of(ttft_ms, memory_gb)
    if not images:
        raise InputError("--image: a budget is fitted on at least one picture")
    if encoder == "search" and limit.unit == "memory_gb":
        raise InputError("--encoder search is for --ttft-ms: towers beside each other would count as memory in use")
    progress("load", 0.0, name)
    model, asked = prepared(
        name, images, prompt, Budget(ratio=1.0), method,
        device=device, precision=precision, allow_pickle=allow_pickle, threads=threads,
    )  # fmt: skip
    from foveate.vlm import fitting
    from foveate.vlm.measuring import first_token_ms

    load = busy()
    progress("answer", 0.05, "with all tokens")
    fitting.needs_one(asked)
    case = fitting.case_of(model, asked)
    verdict = judged(case, limit, encoder, pairs, progress)
    option, proof = verdict.option, verdict.proof
    tokens = option.tokens if verdict.met else None
    progress("stages", 0.9, "where the time goes, and what is lost")
    runs = {"all": (case.plain, None), **({} if tokens is None else {"kept": (option.family, tokens)})}
    peaks = {which: gb for which, run in runs.items() if (gb := fitting.peak(case, *run)) is not None}
    split = {which: fitting.split(case, *run) for which, run in runs.items()}
    first = (
        {"all": median(first_token_ms(model, asked, case.most, family=case.plain) for _ in range(3))}
        if proof is None
        else {"all": proof.all_ms, "kept": proof.kept_ms}
    )
    points = fitting.curve(case, option.family)
    drawn, per_part = ([], []) if tokens is None else _stays(case, option, images, out)
    fitted = Fitted(
        model=name,
        method=method,
        prompt=prompt,
        tokens=tokens,
        kept=[(min(tokens or t.tokens, t.tokens), t.tokens) for t in case.tilings],
        per_part=per_part,
        limit={limit.unit: limit.value},
        value=verdict.value,
        floor=option.seen.get(1),
        measured=dict(option.seen),
        encoder=option.encoder,
        options=[
            {"encoder": o.encoder, "tokens": o.tokens, "cost": None if o.cost is None else asdict(o.cost)}
            for o in verdict.options
        ],
        first_ms=first,
        speedup=None if proof is None else proof.speedup,
        stages=split,
        peak_gb=peaks,
        cost=None if tokens is None or option.cost is None else asdict(option.cost),
        curve=[asdict(p) for p in points],
        drawn=[Path(path).name for path in drawn],
        reason=verdict.reason,
        machine=device_facts(),
        notes=load.notes,
    )
    if out is not None:
        write(fitted, out, drawn)
    return fitted


def judged(case: "Case", limit: "Limit", encoder: str | None, pairs: int, progress: Progress) -> Verdict:
    """Search, choose, prove; what does not hold when it is proven is searched again, a little lower."""
    from foveate.vlm import fitting

    wanted = fitting.encoders(case, encoder)
    share = 0.05

    def tell(stage: str, text: str) -> None:
        nonlocal share
        share += (0.6 - share) / (12 * len(wanted))
        progress(stage, share, text)

    options: list[Option] = []
    for which in wanted:
        options.append(fitting.option(case, which, fitting.hooks(case, which), limit, limit.value, tell))
        if which is None and options[-1].tokens == case.most:
            break  # nothing costs less than nothing
    option = fitting.chosen(options)
    if option is None:
        least = min(options, key=lambda o: o.seen[1])
        why = f"no budget of tokens keeps within {limit}: with one token a picture it is {least.seen[1]:.4g}"
        return Verdict(least, options, None, False, least.seen.get(1), why + _merging(least))
    for attempt in range(1, ATTEMPTS + 1):
        assert option.tokens is not None
        value = option.seen.get(option.tokens)
        if option.tokens >= case.most and option.encoder is None:
            why = f"all {case.most} tokens keep within {limit}: nothing is dropped"
            return Verdict(option, options, None, True, value, why)
        progress("prove", 0.65, f"{option.tokens} of {case.most} tokens against all of them, by turns")
        proof = fitting.prove(case, option, pairs, claims=ATTEMPTS)
        value = proof.kept_ms if limit.unit == "ttft_ms" else value
        kept = f"{option.tokens} of {case.most} tokens{_merging(option)}"
        ratio = proof.speedup
        sooner = f"{ratio.value:.3f} times sooner, {100 * ratio.level:g} % interval {ratio.low:.3f} to {ratio.high:.3f}"
        why = f"{kept} keep within {limit}; the first token comes {sooner}"
        if not proof.speedup.faster:
            return Verdict(option, options, proof, False, value, f"not proven faster than all tokens: {why}")
        if value is not None and value <= limit.value:
            return Verdict(option, options, proof, True, value, why)
        # the machine has become slower since the search, or the search was lucky
        missed = f"{kept} took {value:.4g} when they were proven, which is not within {limit}"
        if attempt < ATTEMPTS:
            lower = limit.value * (1 - SLACK * attempt)
            again = fitting.option(case, option.encoder, option.family, limit, lower, tell)
            if again.tokens is None:
                why = f"no budget of tokens keeps within {limit}: with one token a picture it is {again.seen[1]:.4g}"
                return Verdict(again, options, None, False, again.seen.get(1), why + _merging(again))
            option = again
    return Verdict(option, options, proof, False, value, missed)


def _merging(option: "Option") -> str:
    return "" if option.encoder is None else f" with the encoder at {option.encoder}"


def _stays(
    case: "Case", option: "Option", images: Sequence[Path], out: Path | None
) -> tuple[list[str], list[tuple[int, ...]]]:
    """What stays of every picture, drawn into a folder where there is one, and counted by part."""
    from foveate.vlm.measuring import first_token_ms

    first_token_ms(case.model, case.inputs, option.tokens, family=option.family)
    kept = case.applied.kept
    per_part = [k.per_part for k in kept] if kept else [tuple(t.capacities) for t in case.tilings]
    return ([] if out is None else drawings(images, case.applied, case.inputs, out)), per_part


def write(fitted: Fitted, folder: Path, drawn: Sequence[str] = ()) -> Path:
    """`budget.json` and `report.html` in `folder`."""
    from foveate.report.budget import write_budget_report

    folder.mkdir(parents=True, exist_ok=True)
    found: Mapping[str, Any] = {"schema_version": 1, **asdict(fitted)}
    write_budget_report(found, [Path(path) for path in drawn], folder / "report.html")
    return write_text(folder / FILE, json.dumps(found, indent=1, default=str, allow_nan=True) + "\n")

"""The opponent: the fastest dense build on this machine, whatever runtime and precision it takes."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from foveate.adapters import adapt
from foveate.errors import InputError, NotAvailable, one_of
from foveate.evaluate.metrics import sqnr_db
from foveate.fitting.bench import Bench
from foveate.plans import ModelRef
from foveate.runtimes import RUNTIMES, sharing_graphs

log = logging.getLogger(__name__)

PRECISIONS = ("fp32", "bf16", "int8")
BEATEN = 1.5  # times the latency of another build: no need to look closer, nor to hold its process in memory
LEAST_SQNR_DB = 10.0  # a dense build that answers worse than this is broken, not imprecise


@dataclass(frozen=True)
class Dense:
    """One row of the table of runtimes: a latency, or the reason why there is none."""

    runtime: str
    precision: str
    latency_ms: float | None = None
    agreement: float | None = None  # share of images with the top-1 of the float32 torch model
    sqnr: float | None = None  # dB against it
    reason: str | None = None


def contenders(runtime: str, precision: str) -> tuple[list[tuple[str, str]], list[Dense]]:
    """(runtime, precision) pairs to try, and those not tried with the reason.

    Raises:
        InputError: for an unknown name, or where nothing that was asked for is available here.
    """
    if runtime != "auto" and runtime not in RUNTIMES:
        raise one_of("runtime", runtime, [*RUNTIMES, "auto"])
    if precision not in (*PRECISIONS, "auto"):
        raise one_of("precision", precision, [*PRECISIONS, "auto"])
    chosen, others = [], []
    for name in RUNTIMES if runtime == "auto" else [runtime]:
        for kind in PRECISIONS if precision == "auto" else [precision]:
            reason = RUNTIMES[name].why_not(kind)
            if reason is None and name == "compile" and runtime == "auto":
                reason = "left out of auto on a CPU: slow to build; ask for it with --runtime compile"
            if reason is None and kind == "int8" and precision == "auto":
                reason = "left out of auto: changes every layer's numbers; ask for it with --precision int8"
            if reason is None:
                chosen.append((name, kind))
            else:
                others.append(Dense(name, kind, reason=reason))
    if not chosen:
        raise NotAvailable("; ".join(f"{d.runtime} {d.precision}: {d.reason}" for d in others))
    return chosen, others


def fastest_dense(
    model: nn.Module,
    ref: ModelRef,
    folder: Path,
    pairs: Sequence[tuple[str, str]],
    *,
    images: np.ndarray,
    logits: np.ndarray,
    batch: int,
    threads: int,
    seed: int,
    stack: ExitStack,
    progress: Callable[[float, str], None],
    rounds: int = 2,
    seconds: float = 0.5,
) -> tuple[Bench, list[Dense]]:
    """Build the dense model everywhere, take turns timing, and return the fastest one's open bench and all rows.

    What the first look shows to be `BEATEN` takes no turns and ends at once.

    Args:
        images, logits: what the builds are asked, and what the float32 torch model answers: the builds must be sound.
        stack: keeps the winner's process alive; the losers' end here.
    """
    dense = adapt(model).eval()
    stack.enter_context(sharing_graphs())  # one export serves every runtime that takes ONNX
    benches: dict[tuple[str, str], tuple[Bench, ExitStack]] = {}
    rows: dict[tuple[str, str], Dense] = {}
    try:
        for i, (runtime, precision) in enumerate(pairs):
            progress(i / (len(pairs) + 1), f"dense build: {runtime} {precision}")
            own = ExitStack()
            try:
                bench = own.enter_context(
                    Bench(
                        model,
                        ref,
                        folder,
                        runtime=runtime,
                        precision=precision,
                        batch=batch,
                        threads=threads,
                        calibration=images,
                        seed=seed,
                    )
                )
                bench.add("dense", module=dense)
                answer = bench.logits("dense", images)
            except (RuntimeError, InputError) as e:
                own.close()
                rows[runtime, precision] = Dense(runtime, precision, reason=str(e).splitlines()[-1][:200])
                log.warning("%s %s left out: %s", runtime, precision, e)
                continue
            except BaseException:
                own.close()
                raise
            quality = sqnr_db(logits, answer)
            if quality < LEAST_SQNR_DB:
                own.close()
                rows[runtime, precision] = Dense(
                    runtime, precision, sqnr=quality, reason=f"its outputs are off: {quality:.0f} dB against torch"
                )
                continue
            benches[runtime, precision] = bench, own
            same = float((answer.argmax(1) == logits.argmax(1)).mean())
            rows[runtime, precision] = Dense(runtime, precision, agreement=same, sqnr=quality)
            look(bench)
            least = min(b.builds["dense"].latency_ms for b, _ in benches.values())
            for pair, (other, ended) in list(benches.items()):
                if other.builds["dense"].latency_ms > BEATEN * least:
                    rows[pair] = replace(rows[pair], latency_ms=other.builds["dense"].latency_ms)
                    ended.close()
                    del benches[pair]
        if not benches:
            raise NotAvailable(
                "no runtime could run the dense model: " + "; ".join(str(r.reason) for r in rows.values())
            )
        progress(len(pairs) / (len(pairs) + 1), "dense builds: taking turns")
        for _ in range(rounds):
            for bench, _ in benches.values():
                look(bench, bench.rounds_for("dense", seconds))
        for pair, (bench, _) in benches.items():
            rows[pair] = replace(rows[pair], latency_ms=bench.builds["dense"].latency_ms)
        best = min(benches, key=lambda pair: benches[pair][0].builds["dense"].latency_ms)
        stack.push(benches[best][1].pop_all().__exit__)
        return benches[best][0], list(rows.values())
    finally:
        for _, own in benches.values():
            own.close()


def look(bench: Bench, rounds: int = 5) -> None:
    """Time the dense build, once the threads of whatever ran before have stopped spinning."""
    time.sleep(0.2)
    bench.time(["dense"], rounds)

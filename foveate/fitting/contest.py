"""The contest of dense builds: each built, checked, weighed and timed; a row is known of every one."""

import logging
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from foveate.adapters import adapt
from foveate.errors import InputError
from foveate.evaluate.evidence import Kept, judge_budget
from foveate.evaluate.metrics import sqnr_db
from foveate.fitting.bench import Bench, Seat, rounds_for
from foveate.fitting.case import Case, Look
from foveate.fitting.request import Request
from foveate.target import Precision, Target

log = logging.getLogger(__name__)

Pair = tuple[str, Precision]  # runtime and precision

BEATEN = 1.5  # times the latency of another build: no need to look closer, nor to hold it in memory
INT8_GAIN = 2.5  # times faster than full precision in one runtime is more than int8 has been seen to make a ViT
LEAST_SQNR_DB = 10.0  # a dense build that answers worse than this is broken, not imprecise
EXACT_DB = 40.0  # one that answers better than this changes no answer worth counting
SOUND_ON = 64  # photographs behind the check of soundness, and behind an int8 calibration


@dataclass(frozen=True)
class Dense:
    """One row of the table of dense builds: a latency and a loss, or the reason why there is none."""

    runtime: str
    precision: Precision
    latency_ms: float | None = None
    sqnr: float | None = None  # dB against the given model in float32
    look: Look | None = None  # on unseen photographs; None where the outputs are as good as equal
    kept: Kept | None = None  # the budget, by these
    reason: str | None = None  # why it is no contender

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.precision}"

    @property
    def full(self) -> bool:
        """Floating point, as opposed to int8."""
        return self.precision != "int8"

    @property
    def exact(self) -> bool:
        """No budget can be broken by it."""
        return self.precision == "fp32" or (self.full and (self.sqnr or 0.0) > EXACT_DB)


class Contest:
    """The dense builds under way: one bench a runtime, a row a build."""

    def __init__(self, case: Case, request: Request, folder: Path, threads: int) -> None:
        self.case, self.request, self.folder, self.threads = case, request, folder, threads
        self.dense = adapt(case.model).eval()
        self.benches: dict[str, tuple[Bench, ExitStack]] = {}
        self.rows: dict[Pair, Dense] = {}
        self.alive: dict[Pair, Seat] = {}

    def enter(self, runtime: str, precision: Precision) -> None:
        """Build one, check that it is sound, and look at its latency."""
        label = f"dense {runtime} {precision}"
        if (reason := self._hopeless(runtime, precision)) is not None:
            self.rows[runtime, precision] = Dense(runtime, precision, reason=reason)
            return
        try:
            bench = self._bench(runtime, precision)
            bench.add(label, module=self.dense, precision=precision)
            few = self.case.search.x[:SOUND_ON]
            sqnr = sqnr_db(self.case.search.judge.reference[:SOUND_ON], bench.outputs(label, few))
        except (RuntimeError, InputError) as e:
            log.warning("%s %s left out: %s", runtime, precision, e)
            self.rows[runtime, precision] = Dense(runtime, precision, reason=str(e).splitlines()[-1][:200])
            self._recover(runtime, label)
            return
        row = Dense(runtime, precision, sqnr=sqnr)
        if sqnr < LEAST_SQNR_DB:
            self.rows[runtime, precision] = replace(row, reason=f"its outputs are off: {sqnr:.0f} dB against torch")
            bench.drop(label)
            return
        seat = Seat(bench, label)
        self.alive[runtime, precision] = seat
        self.rows[runtime, precision] = replace(row, latency_ms=look(seat))
        # By an exact build alone: another may still be refused, and must not have driven out those that would do.
        self._drop_beaten([pair for pair in self.alive if self.rows[pair].exact])

    def weigh(self, points: float | None, within: float = 1.0) -> None:
        """What those that may win lose, the fastest first; who breaks the budget leaves.

        Who is more than `within` times as slow as one that keeps it is not looked at. The fastest in full precision
        stays in any case, since what int8 gains is told against it; the others that are `BEATEN` go.
        """
        best, unseen = np.inf, self.case.unseen
        for pair in self.order():
            row, seat = self.rows[pair], self.alive[pair]
            if (row.latency_ms or np.inf) > within * best:
                break
            if not row.exact and row.kept is None:
                found = unseen.look(seat.bench.outputs(seat.label, unseen.x))
                kept = judge_budget(points, found.answers)
                self.rows[pair] = row = replace(row, look=found, kept=kept)
                if points is not None and kept.outcome == "broken":
                    self.rows[pair] = replace(row, reason=f"breaks the budget: {kept.said}")
                    del self.alive[pair]
                    continue
            best = min(best, row.latency_ms or np.inf)
        full = next((pair for pair in self.order() if self.rows[pair].full), None)
        self._drop_beaten([pair for pair in self.order() if self.settled(pair)], but=full)

    def settled(self, pair: Pair) -> bool:
        """Is it known to keep the budget?"""
        return self.rows[pair].exact or self.rows[pair].kept is not None

    def take_turns(self, rounds: int, seconds: float) -> None:
        ms: dict[Pair, list[np.ndarray]] = {pair: [] for pair in self.alive}
        for _ in range(rounds):
            for pair, seat in self.alive.items():
                first = self.rows[pair].latency_ms
                assert first is not None
                time.sleep(0.2)
                ms[pair].append(seat.bench.time([seat.label], rounds_for(first, seconds), stage="dense").ms[0])
        for pair, parts in ms.items():
            self.rows[pair] = replace(self.rows[pair], latency_ms=float(np.median(np.concatenate(parts))))

    def order(self) -> list[Pair]:
        return sorted(self.alive, key=lambda pair: self.rows[pair].latency_ms or np.inf)

    def keep_only(self, runtimes: Iterable[str]) -> None:
        """End the processes of all others."""
        for runtime in [r for r in self.benches if r not in set(runtimes)]:
            self._close(runtime)

    def _hopeless(self, runtime: str, precision: Precision) -> str | None:
        """Why int8 in this runtime cannot win, as far as its full precision tells; None where it may."""
        if precision != "int8":
            return None
        mine = [r.latency_ms for r in self.rows.values() if r.runtime == runtime and r.full and r.latency_ms]
        best = min((r.latency_ms for r in self.rows.values() if r.latency_ms), default=None)
        if not mine or best is None or min(mine) <= INT8_GAIN * best:
            return None
        return (
            f"not built: full precision takes {min(mine) / best:.1f} times the fastest here, "
            f"more than int8 has been seen to gain ({INT8_GAIN:g})"
        )

    def _bench(self, runtime: str, precision: Precision) -> Bench:
        if runtime not in self.benches:
            r, own = self.request, ExitStack()
            target = Target(device=r.device, runtime=runtime, precision=precision, batch=r.batch, threads=self.threads)
            made = Bench(
                self.case.model, self.case.loaded.ref, self.folder, target,
                calibration=self.case.search.x[:SOUND_ON], seed=r.seed,
            )  # fmt: skip
            self.benches[runtime] = own.enter_context(made), own
        return self.benches[runtime][0]

    def _drop_beaten(self, by: Iterable[Pair], but: Pair | None = None) -> None:
        least = min((self.rows[pair].latency_ms or np.inf for pair in by), default=np.inf)
        for pair, seat in list(self.alive.items()):
            if pair != but and (self.rows[pair].latency_ms or np.inf) > BEATEN * least:
                del self.alive[pair]
                seat.bench.drop(seat.label)

    def _recover(self, runtime: str, label: str) -> None:
        """After an error: forget what was half made; where the process died, build again what it held."""
        if runtime not in self.benches:
            return
        bench = self.benches[runtime][0]
        try:
            bench.worker.facts()
        except RuntimeError:
            lost = [pair for pair in self.alive if pair[0] == runtime]
            self._close(runtime)
            for pair in lost:
                self.enter(*pair)
            return
        if label in bench.builds:
            bench.drop(label)

    def _close(self, runtime: str) -> None:
        if runtime in self.benches:
            for pair in [p for p in self.alive if p[0] == runtime]:
                del self.alive[pair]
            self.benches.pop(runtime)[1].close()


def look(seat: Seat, rounds: int = 5) -> float:
    """Median latency of a build, once the threads of whatever ran before have stopped spinning."""
    time.sleep(0.2)
    return seat.bench.time([seat.label], rounds, stage="dense").median(seat.label)

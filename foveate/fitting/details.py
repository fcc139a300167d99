"""What is measured once the verdict is known, for the report: nothing of it is measured while writing."""

from dataclasses import dataclass

import numpy as np

from foveate.adapters import adapt
from foveate.evaluate.answers import reference_outputs
from foveate.evaluate.judges import JUDGES
from foveate.evaluate.metrics import sqnr_db
from foveate.fitting.baseline import Baseline
from foveate.fitting.bench import SETTLE_S, Seat, by_turns, origin, rounds_for
from foveate.fitting.case import Case, Look
from foveate.fitting.energy import energy_of
from foveate.fitting.pictures import overlays
from foveate.fitting.proving import Proof
from foveate.fitting.stages import Progress
from foveate.hardware.energy import Energy
from foveate.hardware.peaks import measure_peaks
from foveate.hardware.timer import allowance
from foveate.result import Result, Tag
from foveate.written import Overlays

PARITY_ON = 64  # photographs


@dataclass(frozen=True)
class Parity:
    """The deployed file against the same plan in float32 torch: what the runtime alone changed."""

    sqnr_db: float
    max_abs: float
    agreement: float  # share of answers that are the same
    n: int


@dataclass(frozen=True)
class Details:
    """Figures of the build that is handed back, and of the dense baseline beside it."""

    given: Seat  # what is handed back
    look: Look  # of it, on unseen photographs
    dense_look: Look
    energy: dict[str, Energy]  # by label
    parity: Parity | None
    peaks: tuple[Result, ...]
    full_share: float  # of the baseline's latency over the best full-precision dense build's
    overlays: Overlays | None
    gallery: np.ndarray | None  # embeddings [S C] of the search photographs
    origin: dict[str, Tag]
    warnings: tuple[str, ...]


def examine(case: Case, baseline: Baseline, proof: Proof | None, given: Seat, seed: int, progress: Progress) -> Details:
    """`given`: the build that will be handed back; the proof's, or a dense one."""
    progress("write", 0.0, "energy, parity and pictures")
    warnings = []
    quiet = given.bench.worker.facts().get("quiet") or {}
    if (other := quiet.get("other_cores") or 0.0) > allowance(baseline.target):
        warnings.append(f"other processes kept {other:.1f} cores busy while the last pairs were timed")
    energy = {}
    for seat in {baseline.seat.label: baseline.seat, given.label: given}.values():
        macs = case.facts.macs(seat.build.plan.schedule)
        energy[seat.label] = energy_of(seat.bench, seat.build, macs)
    dense_look = baseline.row.look or look_at(baseline.seat, case)
    parity, drawn, gallery, found = None, None, None, dense_look
    if proof is not None:
        found = proof.look
        parity = parity_of(case, given)
        drawn = overlays(case, baseline.seat, given, dense_look, found)
    elif given.label != baseline.seat.label:
        found = baseline.full.look or look_at(given, case)
    if case.facts.outputs == "embedding":
        gallery = given.bench.outputs(given.label, case.search.x)
    threads = baseline.target.threads
    return Details(
        given=given, look=found, dense_look=dense_look, energy=energy, parity=parity,
        peaks=tuple(measure_peaks(threads=threads, seconds=0.3, device=baseline.target.device)),
        full_share=full_share(baseline), overlays=drawn, gallery=gallery, origin=origin(given.bench, seed),
        warnings=tuple(warnings),
    )  # fmt: skip


def full_share(baseline: Baseline, seconds: float = 4.0) -> float:
    """Latency of the baseline over that of the best full-precision dense build, by turns; 1 where they are one."""
    if baseline.row.full:
        return 1.0
    full = baseline.full_seat
    if full is None:
        return baseline.ms / (baseline.full.latency_ms or baseline.ms)
    each = 2 * baseline.ms if full.bench is baseline.seat.bench else 4 * baseline.ms + 2e3 * SETTLE_S
    rounds = rounds_for(each, seconds, least=30)
    return by_turns(full, baseline.seat, rounds, stage="ladder").share(baseline.seat.label, full.label)


def look_at(seat: Seat, case: Case) -> Look:
    """What a build loses on the unseen photographs."""
    return case.unseen.look(seat.bench.outputs(seat.label, case.unseen.x))


def parity_of(case: Case, given: Seat) -> Parity:
    """On the first of the unseen photographs: what a runtime changes shows on any few."""
    x, labels = case.unseen.x[:PARITY_ON], case.unseen.sample.labels
    answer = given.bench.outputs(given.label, x)
    torch_answer = reference_outputs(adapt(case.model, given.build.plan.steps).eval(), x)
    judge = JUDGES[case.facts.outputs](torch_answer, None if labels is None else labels[:PARITY_ON])
    same = judge.quality(answer).agreement.value / 100
    most = float(np.abs(torch_answer - answer).max())
    return Parity(sqnr_db(torch_answer, answer), most, same, len(answer))

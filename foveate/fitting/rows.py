"""Findings as Results: every figure with its interval, its sample size and where it comes from. Nothing is measured."""

import numpy as np

from foveate.fitting.baseline import Dense
from foveate.fitting.bench import Timing
from foveate.fitting.case import Look
from foveate.fitting.findings import Findings
from foveate.fitting.lane import Lane
from foveate.hardware.timer import percentiles
from foveate.planning import Candidate
from foveate.result import Result, Tag

Tags = dict[str, Tag]


def rows_of(found: Findings) -> list[Result]:
    """All results of a fit but its operating points."""
    source, target = found.details.origin, found.baseline.target
    where: Tags = {
        "runtime": target.runtime, "precision": target.precision, "batch": target.batch, "device": target.device,
        "outputs": found.case.facts.outputs,
    }  # fmt: skip
    rows = [_runtime(d, found) for d in found.baseline.table]
    rows += _build_rows("dense", found.baseline.seat.label, found, where, found.details.dense_look)
    if found.proof is not None:
        plan = found.build.plan.target
        mine: Tags = where | {"runtime": plan.runtime, "precision": plan.precision}
        rows += _build_rows("chosen", found.build.label, found, mine, found.details.look)
        if (s := found.proof.speedup) is not None:
            tags: Tags = mine | {"plan": "chosen", "baseline": "dense", "stage": "verify"}
            rows.append(
                Result(name="speedup", value=s.value, unit="x", low=s.low, high=s.high, level=s.level, n=s.n, tags=tags)
            )
        if (p := found.details.parity) is not None:
            tags = {"plan": "chosen", "max_abs": p.max_abs, "agreement": p.agreement}
            rows.append(Result(name="parity", value=p.sqnr_db, unit="dB", n=p.n, tags=tags))
    rows += [row for lane in found.lanes for row in _candidates(lane, found, where)]
    rows += found.details.peaks
    rows += [row for lane in found.lanes[:1] for row in _curve(lane, where)]
    return [r.model_copy(update={"origin": source}) for r in rows]


def _runtime(d: Dense, found: Findings) -> Result:
    quality = None if d.look is None else d.look.quality
    tags: Tags = {
        "runtime": d.runtime, "precision": d.precision, "batch": found.baseline.target.batch,
        "available": d.latency_ms is not None, "reason": d.reason, "sqnr_db": d.sqnr,
        "agreement": None if quality is None else quality.agreement.value / 100,
        "cost": None if quality is None else quality.points_lost,
        "cost_low": None if quality is None else quality.cost.low,
        "cost_high": None if quality is None else quality.cost.high,
        "chosen": d.name == found.baseline.row.name,
    }  # fmt: skip
    return Result(name="runtime", value=d.latency_ms or 0.0, unit="ms", tags=tags)


def _build_rows(role: str, label: str, found: Findings, where: Tags, look: Look) -> list[Result]:
    """Of one of the two builds that the verdict compares."""
    rows: list[Result] = []
    about: Tags = where | {"plan": role}
    timing = None if found.proof is None else found.proof.timing
    if timing is not None:
        rows.append(_latency(timing, label, about | {"stage": "verify"}))
    else:
        rows.append(Result(name="latency", value=found.baseline.ms, unit="ms", tags=about | {"stage": "search"}))
    rows += [r.model_copy(update={"tags": {**r.tags, **about, "split": "unseen"}}) for r in look.quality.results()]
    plan = found.baseline.seat.build.plan if role == "dense" else found.build.plan
    gmacs = found.case.facts.macs(plan.schedule) / 1e9
    rows.append(Result(name="macs", value=gmacs, unit="GMAC", tags={"plan": role}))
    energy = found.details.energy[label]
    about = {"plan": role, "how": energy.how, "source": energy.source}
    rows.append(Result(name="energy", value=energy.mj, unit="mJ", n=energy.calls, tags=about))
    return rows


def _latency(timing: Timing, label: str, tags: Tags) -> Result:
    ms = timing.of(label)
    known: Tags = {k: round(v, 4) for k, v in percentiles(ms).items() if v is not None}
    return Result(name="latency", value=float(np.median(ms)), unit="ms", n=len(ms), tags=tags | known)


def _candidates(lane: Lane, found: Findings, where: Tags) -> list[Result]:
    """Those built with what they were seen to do, the others with what they are expected to.

    All in milliseconds of the proof, where there is one: the machine's speed has drifted since the search, and they
    stand beside the two builds that were proven.
    """
    timing = None if found.proof is None else found.proof.timing
    base = found.baseline.ms if timing is None else timing.median(found.baseline.seat.label)
    drift = base / found.baseline.ms
    scale = lane.search.profile.dense_ms / (drift * lane.dense_ms)  # of the table's milliseconds
    target, rows = lane.search.target, []
    chosen = None if found.proof is None else found.proof.trial
    for c in lane.search.candidates:
        trial = next((t for t in lane.trials if t.candidate.steps == c.steps), None)
        tags = where | {
            "runtime": target.runtime, "precision": target.precision, "plan": ", ".join(map(str, c.steps)),
            "expected_drop": c.expected_drop, "predicted_ms": c.predicted_ms / scale, "measured": trial is not None,
            "macs_ratio": c.macs_ratio, "method": "+".join(sorted({s.method for s in c.steps})) or "dense",
            "chosen": trial is not None and trial is chosen, "frontier": True,
        }  # fmt: skip
        ms = c.predicted_ms / scale
        if trial is not None:
            ms, quality = trial.share * base, trial.look.quality
            drop = None if quality.drop is None else quality.drop.value
            tags |= {"loss": quality.distance.value, "agreement": quality.agreement.value / 100, "drop": drop}
        else:
            tags |= _expected(c)
        rows.append(Result(name="candidate", value=ms, unit="ms", tags=tags))
    return rows


def _expected(c: Candidate) -> Tags:
    return {"loss": c.loss, "agreement": c.agreement, "drop": c.drop}


def _curve(lane: Lane, where: Tags) -> list[Result]:
    curve = lane.search.profile.table.block
    target = lane.search.target
    tags = where | {"runtime": target.runtime, "precision": target.precision, "kind": "block"}
    return [
        Result(name="curve", value=ms, unit="ms", tags=tags | {"tokens": n})
        for n, ms in zip(curve.tokens, curve.ms, strict=True)
    ]

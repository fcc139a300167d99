"""The knob measured: builds of one set of weights beside each other, and which of them are worth having."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from foveate.adapters import Facts
from foveate.elastic import Frontier, Point
from foveate.fitting.bench import Bench
from foveate.fitting.evidence import Quality, energy_of
from foveate.hardware.energy import Energy
from foveate.hardware.timer import percentiles, speedup
from foveate.result import Result, Tag


@dataclass(frozen=True)
class Seen:
    """A build with what it was found to do."""

    label: str
    latencies_ms: np.ndarray  # [rounds]
    share: tuple[float, float, float]  # of the dense build's latency: median ratio of pairs, 99 % interval
    quality: Quality
    energy: Energy  # of one image

    @property
    def ms(self) -> float:
        return float(np.median(self.latencies_ms))

    @property
    def right(self) -> float:
        """% of answers that are right; without labels, that are the given model's."""
        return (self.quality.accuracy or self.quality.agreement).value


def measure_points(
    bench: Bench,
    labels: Sequence[str],
    qualities: Mapping[str, Quality],
    model: nn.Module,
    facts: Facts,
    *,
    seconds: float,
    progress: Callable[[float, str], None] = lambda share, text: None,
) -> list[Seen]:
    """Time builds of `bench` by turns, the dense one among them, and find the energy of each.

    Args:
        qualities: of each label, on photographs that no search has seen.
        seconds: of timing, over all points.

    The intervals of all points hold at once with 99 % (Bonferroni).
    """
    labels = ["dense", *(l for l in labels if l != "dense")]
    progress(0.0, f"{len(labels)} operating points by turns")
    each = sum(np.median(bench.time(labels, 5), axis=1))
    rounds = int(np.clip(seconds * 1e3 / each, 64, 700))
    parts = []
    while (done := sum(p.shape[1] for p in parts)) < rounds:
        parts.append(bench.time(labels, min(64, rounds - done), warmup=0))
        progress(min(1.0, done / rounds), f"{done} rounds of {len(labels)} operating points")
    ms = np.concatenate(parts, axis=1)
    level = 1 - 0.01 / max(1, len(labels) - 1)
    seen = []
    for label, row in zip(labels, ms, strict=True):
        s = speedup(ms[0], row, level)
        share = (1.0, 1.0, 1.0) if label == "dense" else (1 / s.value, 1 / s.high, 1 / s.low)
        macs = facts.macs(bench.builds[label].plan.schedule)
        seen.append(Seen(label, row, share, qualities[label], energy_of(bench, label, model, macs)))
    return seen


def worth_having(seen: Sequence[Seen]) -> list[Seen]:
    """The dense build, then by falling latency those proven faster that no faster one equals in quality."""
    dense, others = seen[0], sorted(seen[1:], key=lambda s: s.ms)
    kept: list[Seen] = []
    for s in others:
        if s.share[2] < 1 and s.ms < dense.ms and (not kept or s.right > kept[-1].right):
            kept.append(s)
    return [dense, *reversed(kept)]


def frontier_of(
    seen: Sequence[Seen], bench: Bench, facts: Facts, files: Mapping[str, str], source: Mapping[str, Tag]
) -> Frontier:
    """`files`: where each label's model file will stand, relative to the folder."""
    points, first = [], seen[0]
    for s in seen:
        plan = bench.builds[s.label].plan
        found = s.quality.accuracy or s.quality.agreement
        points.append(
            Point(
                steps=plan.steps,
                file=files[s.label],
                tokens=plan.schedule.after,
                gmacs=facts.macs(plan.schedule) / 1e9,
                latency_ms=s.ms,
                p99_ms=percentiles(s.latencies_ms)["p99"],
                share=s.share[0],
                share_low=s.share[1],
                share_high=s.share[2],
                quality=found.value,
                quality_low=found.value if found.low is None else found.low,
                quality_high=found.value if found.high is None else found.high,
                energy_mj=s.energy.mj,
            )
        )
    return Frontier(
        runtime=bench.runtime, precision=bench.precision, batch=bench.batch, threads=bench.threads,
        figure="agreement" if first.quality.accuracy is None else "top-1", images=first.quality.agreement.n or 1,
        energy=first.energy.how, energy_source=first.energy.source, points=tuple(points),
        origin={k: v for k, v in source.items() if isinstance(v, str | int | float | bool | None)},
    )  # fmt: skip


def results(frontier: Frontier, source: dict[str, Tag]) -> list[Result]:
    """A row a point, for reports."""
    about: dict[str, Tag] = {
        "runtime": frontier.runtime, "precision": frontier.precision, "batch": frontier.batch,
        "figure": frontier.figure, "images": frontier.images, "energy": frontier.energy,
        "energy_source": frontier.energy_source,
    }  # fmt: skip
    return [
        Result(
            name="point", value=p.latency_ms, unit="ms", origin=source,
            tags=about
            | {
                "index": i, "plan": ", ".join(map(str, p.steps)) or "all tokens", "p99": p.p99_ms, "share": p.share,
                "share_low": p.share_low, "share_high": p.share_high, "quality": p.quality,
                "quality_low": p.quality_low, "quality_high": p.quality_high, "energy_mj": p.energy_mj,
                "gmacs": p.gmacs, "tokens": list(p.tokens),
            },
        )
        for i, p in enumerate(frontier.points)
    ]  # fmt: skip

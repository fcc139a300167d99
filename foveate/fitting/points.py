"""Operating points: builds of one set of weights beside each other, and which of them are worth having."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foveate.elastic import Frontier, Point
from foveate.evaluate.judges import JUDGES, Quality
from foveate.facts import Facts
from foveate.fitting.bench import Bench, Build, Timing
from foveate.fitting.energy import energy_of
from foveate.hardware.energy import Energy
from foveate.hardware.timer import percentiles
from foveate.result import Result, Tag
from foveate.target import Target

PAIRS = 700
SHOWN = 0.99  # confidence that all points' intervals hold at once


@dataclass(frozen=True)
class PointMeasurement:
    """A build with what it was found to do."""

    build: Build
    latencies_ms: np.ndarray  # [rounds]
    share: tuple[float, float, float]  # of the dense build's latency: median ratio of pairs, 99 % interval
    quality: Quality
    energy: Energy  # of one image

    @property
    def label(self) -> str:
        return self.build.label

    @property
    def ms(self) -> float:
        return float(np.median(self.latencies_ms))


def measure_points(
    bench: Bench,
    dense: str,
    labels: Sequence[str],
    qualities: Mapping[str, Quality],
    facts: Facts,
    *,
    seconds: float,
    progress: Callable[[float, str], None] = lambda share, text: None,
) -> list[PointMeasurement]:
    """Time builds of `bench` by turns, the build `dense` first, and find the energy of each.

    Args:
        qualities: of each label, on photographs that no search has seen.
        seconds: of timing, over all points.

    The intervals of all points hold at once with 99 % (Bonferroni).
    """
    labels = [dense, *(l for l in labels if l != dense)]
    progress(0.0, f"{len(labels)} operating points by turns")
    each = float(sum(np.median(bench.time(labels, 5).ms, axis=1)))
    rounds = int(np.clip(seconds * 1e3 / each, 64, PAIRS))
    parts = list[np.ndarray]()
    while (done := sum(p.shape[1] for p in parts)) < rounds:
        parts.append(bench.time(labels, min(64, rounds - done), warmup=0, stage="points").ms)
        progress(min(1.0, done / rounds), f"{done} rounds of {len(labels)} operating points")
    timing = Timing(tuple(labels), np.concatenate(parts, axis=1), "points")
    level = 1 - (1 - SHOWN) / max(1, len(labels) - 1)
    found = []
    for label in labels:
        build = bench.builds[label]
        s = timing.speedup(dense, label, level)
        share = (1.0, 1.0, 1.0) if label == dense else (1 / s.value, 1 / s.high, 1 / s.low)
        energy = energy_of(bench, build, facts.macs(build.plan.schedule))
        found.append(PointMeasurement(build, timing.of(label), share, qualities[label], energy))
    return found


def worth_having(found: Sequence[PointMeasurement]) -> list[PointMeasurement]:
    """The dense build, then by falling latency those proven faster that no faster one equals in quality."""
    dense, others = found[0], sorted(found[1:], key=lambda s: s.ms)
    kept: list[PointMeasurement] = []
    for s in others:
        if s.share[2] < 1 and s.ms < dense.ms and (not kept or s.quality.right > kept[-1].quality.right):
            kept.append(s)
    return [dense, *reversed(kept)]


def frontier_of(
    points: Sequence[PointMeasurement], facts: Facts, files: Mapping[str, str], source: Mapping[str, Tag]
) -> Frontier:
    """`files`: where each label's model file will stand, relative to the folder."""
    first = points[0]
    words = JUDGES[first.quality.kind].words
    target: Target = first.build.plan.target
    return Frontier(
        target=target, figure=words.agreement if first.quality.score is None else words.score,  # type: ignore[arg-type]
        images=first.quality.agreement.n or 1, energy=first.energy.how, energy_source=first.energy.source,
        points=tuple(_point(p, facts, files[p.label]) for p in points),
        origin={k: v for k, v in source.items() if isinstance(v, str | int | float | bool | None)},
    )  # fmt: skip


def _point(p: PointMeasurement, facts: Facts, file: str) -> Point:
    plan = p.build.plan
    figure = p.quality.score or p.quality.agreement
    return Point(
        steps=plan.steps, file=file, tokens=plan.schedule.after, gmacs=facts.macs(plan.schedule) / 1e9,
        latency_ms=p.ms, p99_ms=percentiles(p.latencies_ms)["p99"],
        share=p.share[0], share_low=p.share[1], share_high=p.share[2],
        quality=figure.value, quality_low=figure.value if figure.low is None else figure.low,
        quality_high=figure.value if figure.high is None else figure.high, energy_mj=p.energy.mj,
    )  # fmt: skip


def point_rows(frontier: Frontier, source: dict[str, Tag]) -> list[Result]:
    """A row a point, for reports."""
    target = frontier.target
    about: dict[str, Tag] = {
        "runtime": target.runtime, "precision": target.precision, "batch": target.batch, "figure": frontier.figure,
        "images": frontier.images, "energy": frontier.energy, "energy_source": frontier.energy_source,
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

"""What was found, as Results: every figure with its interval, its sample size and where it comes from."""

import base64
import io
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import nn

from foveate.adapters import adapt, describe
from foveate.evaluate import Images, metrics, top
from foveate.fitting.bench import Bench
from foveate.hardware.device import device_facts
from foveate.hardware.energy import Energy, find_meters, measure, modelled
from foveate.hardware.peaks import measure_peaks
from foveate.hardware.timer import percentiles
from foveate.loading.load import Loaded
from foveate.plans import Plan
from foveate.result import Result, Tag

if TYPE_CHECKING:
    from foveate.fitting.job import _Job

METERED_SECONDS = 3.0  # where there is a counter of energy
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Quality:
    """A build's answers against the given model's, on the same images."""

    drop: Result | None  # points of top-1, with labels
    agreement: Result
    kl: Result
    accuracy: Result | None

    @property
    def points_lost(self) -> float:
        """Points of top-1 lost; without labels, the share of changed answers, which bounds it."""
        return self.drop.value if self.drop is not None else 100 - self.agreement.value

    def results(self) -> list[Result]:
        return [r for r in (self.accuracy, self.drop, self.agreement, self.kl) if r is not None]


def quality(reference: np.ndarray, answer: np.ndarray, labels: np.ndarray | None) -> Quality:
    """Both logits [S classes]; labels [S] or None."""
    return Quality(
        drop=None if labels is None else metrics.drop(reference, answer, labels),
        agreement=metrics.agreement(reference, answer),
        kl=metrics.mean_kl(reference, answer),
        accuracy=None if labels is None else metrics.accuracy(answer, labels).model_copy(update={"name": "accuracy"}),
    )


def origin(bench: Bench, seed: int) -> dict[str, Tag]:
    """Device, threads and versions that stand beside every figure."""
    facts = {k: v for k, v in device_facts().items() if isinstance(v, str | int | float | bool | list)}
    child = {k: v for k, v in bench.worker.facts().items() if isinstance(v, str | int | float | bool)}
    return {**facts, **child, "threads": bench.threads, "seed": seed}


def tagged(result: Result, origin: dict[str, Tag], **tags: Tag) -> Result:
    return result.model_copy(update={"tags": {**result.tags, **tags}, "origin": origin})


def energy_of(bench: Bench, label: str, model: nn.Module, macs: int) -> Energy:
    """Of one image: read off counters where there are any, else from operations and the weights' bytes.

    Weights are taken to come from DRAM once a call; tokens, a few hundred kilobytes, to stay in the caches.
    """
    meters, _ = find_meters()
    if meters:
        x = np.zeros((bench.batch, *bench.builds[label].image), np.float32)
        found = measure(lambda: bench.logits(label, x), meters, seconds=METERED_SECONDS)
        return replace(found, mj=found.mj / bench.batch, idle_mj=(found.idle_mj or 0.0) / bench.batch)
    moved = sum(p.numel() for p in model.parameters()) * BYTES[bench.precision] / bench.batch
    return modelled(macs, moved, bench.precision)


@dataclass
class Evidence:
    """Collects what a fit found."""

    rejected: list[tuple[str, str]] = field(default_factory=list)

    def results(self, job: "_Job", source: dict[str, Tag]) -> list[Result]:
        bench = job.bench
        where: dict[str, Tag] = {"runtime": bench.runtime, "precision": bench.precision, "batch": bench.batch}
        rows: list[Result] = []
        for d in job.rows:
            rows.append(
                Result(
                    name="runtime",
                    value=d.latency_ms or 0.0,
                    unit="ms",
                    origin=source,
                    tags={
                        "runtime": d.runtime,
                        "precision": d.precision,
                        "batch": bench.batch,
                        "available": d.latency_ms is not None,
                        "reason": d.reason,
                        "agreement": d.agreement,
                        "sqnr_db": d.sqnr,
                        "chosen": (d.runtime, d.precision) == (bench.runtime, bench.precision),
                    },
                )
            )
        final = {"dense": "dense"} | ({} if job.chosen is None else {job.chosen.label: "chosen"})
        labels = job.unseen.labels
        for label, role in final.items():
            build = bench.builds[label]
            p = percentiles(np.asarray(build.latencies_ms))
            tags: dict[str, Tag] = {**where, "plan": role, "stage": "verify" if job.chosen else "search"}
            tags |= {k: round(v, 4) for k, v in p.items() if v is not None}
            n = len(build.latencies_ms)
            rows.append(Result(name="latency", value=build.latency_ms, unit="ms", n=n, tags=tags, origin=source))
            answer = bench.logits(label, job.x_unseen)
            found = quality(job.logits_unseen, answer, labels)
            rows += [tagged(r, source, **where, plan=role, split="unseen") for r in found.results()]
            rows.append(
                Result(
                    name="macs",
                    value=job.facts.macs(build.plan.schedule) / 1e9,
                    unit="GMAC",
                    origin=source,
                    tags={"plan": role},
                )
            )
            energy = energy_of(bench, label, job.model, job.facts.macs(build.plan.schedule))
            about: dict[str, Tag] = {"plan": role, "how": energy.how, "source": energy.source}
            rows.append(Result(name="energy", value=energy.mj, unit="mJ", n=energy.calls, tags=about, origin=source))
            if role == "chosen":
                rows.append(parity(job, build.plan, answer, source))
        if job.speedup is not None:
            s = job.speedup
            rows.append(
                Result(
                    name="speedup",
                    value=s.value,
                    unit="x",
                    low=s.low,
                    high=s.high,
                    level=s.level,
                    n=s.n,
                    origin=source,
                    tags={**where, "plan": "chosen", "baseline": "dense", "stage": "verify"},
                )
            )
        rows += self._candidates(job, source, where)
        rows += [r.model_copy(update={"origin": source}) for r in measure_peaks(threads=bench.threads, seconds=0.3)]
        if job.profile is not None:
            curve = job.profile.table.block
            rows += [
                Result(name="curve", value=ms, unit="ms", origin=source, tags={**where, "tokens": n, "kind": "block"})
                for n, ms in zip(curve.tokens, curve.ms, strict=True)
            ]
        return rows

    def _candidates(self, job: "_Job", source: dict[str, Tag], where: dict[str, Tag]) -> list[Result]:
        rows, built = [], {id(c): label for label, c in job.measured.items()}
        for c in job.candidates:
            label = built.get(id(c))
            kl, same, lost = c.kl, c.agreement, c.drop
            ms = c.predicted_ms / job.scale  # the table's milliseconds, brought to those of whole builds
            if label is not None:
                ms, found = job.ratios[label] * job.bench.builds["dense"].latency_ms, job.checked[label]
                kl, same = found.kl.value, found.agreement.value / 100
                lost = None if found.drop is None else found.drop.value
            tags: dict[str, Tag] = {
                **where, "plan": ", ".join(map(str, c.steps)), "kl": kl, "agreement": same, "drop": lost,
                "expected_drop": c.expected_drop, "predicted_ms": c.predicted_ms / job.scale,
                "measured": label is not None, "macs_ratio": c.macs_ratio,
                "method": "+".join(sorted({s.method for s in c.steps})) or "dense",
                "chosen": job.chosen is not None and label == job.chosen.label, "frontier": True,
            }  # fmt: skip
            rows.append(Result(name="candidate", value=ms, unit="ms", tags=tags, origin=source))
        return rows


def parity(job: "_Job", plan: Plan, answer: np.ndarray, source: dict[str, Tag]) -> Result:
    """The deployed file against the same plan in float32 torch: what the runtime alone changed."""
    from foveate.fitting.bench import reference_logits

    torch_answer = reference_logits(adapt(job.model, plan.steps).eval(), job.x_unseen)
    same = float((torch_answer.argmax(1) == answer.argmax(1)).mean())
    return Result(
        name="parity", value=metrics.sqnr_db(torch_answer, answer), unit="dB", n=len(answer), origin=source,
        tags={"plan": "chosen", "max_abs": float(np.abs(torch_answer - answer).max()), "agreement": same},
    )  # fmt: skip


def overlays(
    model: nn.Module, plan: Plan, photos: Images, loaded: Loaded, bench: Bench, label: str, count: int = 4
) -> dict[str, Any]:
    """What was kept at each reducing block, for `count` photographs, with the answers before and after."""
    import torch

    facts, reduced = describe(model), adapt(model, plan.steps).eval()
    pictures = []
    for i in range(min(count, len(photos))):
        image = photos[i]
        x = loaded.preprocess(image)[None]
        with torch.inference_mode():
            maps = reduced.trace(torch.from_numpy(x))
        buffer = io.BytesIO()
        # What the model saw, crop and all, so that the grid lies where it lay.
        mean, std = (np.asarray(v)[:, None, None] for v in (loaded.preprocess.mean, loaded.preprocess.std))
        pixels = ((x[0] * std + mean) * 255).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
        pictures.append(
            {
                "name": photos.names[i],
                "jpeg_base64": base64.b64encode(buffer.getvalue()).decode(),
                "dense": top(bench.logits("dense", x)[0], loaded.classes, 3),
                "reduced": top(bench.logits(label, x)[0], loaded.classes, 3),
                "blocks": {str(b): m[0].tolist() for b, m in maps.items()},
            }
        )
    return {"grid": list(facts.grid), "images": pictures}

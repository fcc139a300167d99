"""A folder as `foveate fit` leaves it, and results as `foveate compare` writes them, made up for the tests of pages."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from foveate.facts import Outputs
from foveate.plans import ModelRef, Plan, Step
from foveate.report.kinds import KINDS
from foveate.report.masks import coloured, laid_over, pane, write_masks
from foveate.result import Result, write_results
from foveate.target import Target
from foveate.written import (
    BudgetKept,
    Milliseconds,
    Overlays,
    Photo,
    Rejected,
    Rung,
    SpeedUp,
    Value,
    Verdict,
)

GRID = (14, 14)
STEPS = (
    Step(block=3, method="tome", tokens=150),
    Step(block=6, method="tome", tokens=112),
    Step(block=9, method="topk", tokens=80),
)
ORIGIN = {
    "cpu": "Example CPU 3000", "cores": 2, "threads": 2, "instruction_sets": ["avx2", "avx512f", "amx_bf16"],
    "governor": "performance", "torch": "2.15.0", "timm": "1.0.31", "openvino": "2026.4.0", "seed": 0,
}  # fmt: skip


class Page(HTMLParser):
    """Text, elements, and the page without the plotting library."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self._script: str | None = None
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tag)
        self._script = dict(attrs).get("id")

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        last = self.inside[-1] if self.inside else ""
        if last in ("script", "style"):
            self.scripts[self._script or f"{last} {len(self.scripts)}"] = data
        else:
            self.words.append(data)


def photo(seed: int, size: int = 224) -> Image.Image:
    """A picture with flat and busy parts."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    sky = np.stack([120 + 80 * y, 150 + 60 * y, 200 - 40 * x], -1)
    image = Image.fromarray((sky + rng.normal(0, 3, sky.shape)).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(9):
        cx, cy, r = (int(v) for v in rng.integers((40, 40, 10), (184, 184, 45)))
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=tuple(rng.integers(30, 230, 3).tolist()))
    return image


def jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def source_maps(image: Image.Image, steps=STEPS, prefix: int = 1) -> dict[str, list[int]]:
    """Merging by colour, two halves matched as in ToMe; `topk` drops the patches nearest to the mean colour."""
    colour = np.asarray(image.convert("RGB").resize(GRID[::-1], Image.Resampling.BOX), float).reshape(-1, 3)
    owner, maps = np.arange(len(colour)), {}
    for step in steps:
        ids = np.unique(owner[owner >= 0])
        means = np.stack([colour[owner == i].mean(0) for i in ids])
        many = len(ids) - (step.tokens - prefix)
        if step.method == "topk":
            for i in ids[np.argsort(np.linalg.norm(means - colour.mean(0), axis=1))[:many]]:
                owner[owner == i] = -1
        else:
            a, b = np.arange(len(ids))[::2], np.arange(len(ids))[1::2]
            far = np.linalg.norm(means[a][:, None] - means[b][None], axis=-1)
            for k in np.argsort(far.min(1))[:many]:
                owner[owner == ids[a[k]]] = ids[b[far[k].argmin()]]
        maps[str(step.block)] = owner.tolist()
    return maps


def make_results(labels: bool = True, outputs: Outputs = "classes") -> list[Result]:
    kind = KINDS[outputs]
    rng = np.random.default_rng(0)
    where = {"runtime": "openvino", "precision": "bf16", "batch": 1}

    def result(name, value, unit, **more):
        tags = {k: more.pop(k) for k in list(more) if k not in ("low", "high", "level", "n")} | {"outputs": outputs}
        return Result(name=name, value=value, unit=unit, tags=tags, origin=ORIGIN, **more)

    rows = [
        result("latency", 5.301, "ms", n=1211, plan="dense", stage="search", p90=5.833, p99=7.212, **where),
        result("latency", 5.137, "ms", n=700, plan="dense", stage="verify", p90=5.412, p99=6.093, **where),
        result("latency", 3.921, "ms", n=700, plan="chosen", stage="verify", p90=4.108, p99=4.877, **where),
        result("speedup", 1.308, "x", low=1.283, high=1.337, level=0.99, n=700, plan="chosen", baseline="dense",
               stage="verify", **where),
        result("macs", 1.2582, "GMAC", plan="dense"),
        result("macs", 0.8681, "GMAC", plan="chosen"),
        result("energy", 5.284, "mJ", plan="dense", how="modelled", source="a made-up model"),
        result("energy", 3.913, "mJ", plan="chosen", how="modelled", source="a made-up model"),
        result("parity", 61.7, "dB", n=84, plan="chosen", agreement=1.0),
        result("agreement", 0.976, "share", low=0.917, high=0.993, level=0.95, n=84, plan="chosen", split="unseen"),
        result(kind.distance_result, 0.0213, kind.unit or "1", low=0.0148, high=0.0302, level=0.95, n=84,
               plan="chosen", split="unseen"),
        result("peak_matmul_fp32", 163.2, "GFLOP/s", n=9, what="1536 x 1536 matrix product", precision="fp32"),
        result("peak_matmul_bf16", 1214.0, "GFLOP/s", n=9, what="1536 x 1536 matrix product", precision="bf16"),
        result("peak_copy", 21.4, "GB/s", n=9, what="copy of 128 MiB"),
    ]  # fmt: skip
    if outputs == "embedding":
        rows += [
            result("cosine", 0.9787, "1", low=0.9698, high=0.9852, level=0.95, n=84, plan="chosen", split="unseen"),
            result("worst_cosine", 0.871, "1", n=84, plan="chosen", split="unseen"),
        ]
    if labels:
        rows += [
            result(
                kind.score_result,
                0.881,
                "share",
                low=0.795,
                high=0.934,
                level=0.95,
                n=84,
                plan="chosen",
                split="unseen",
            ),
            result(
                kind.score_result, 0.885, "share", low=0.8, high=0.937, level=0.95, n=84, plan="dense", split="unseen"
            ),
            result("drop", 0.4, "points", low=-0.8, high=1.6, level=0.95, n=84, plan="chosen", split="unseen"),
        ]
    for runtime, precision, ms, same, lost, reason in [
        ("openvino", "bf16", 5.21, 0.99, 0.1, None), ("openvino", "fp32", 9.86, 1.0, 0.0, None),
        ("onnxruntime", "fp32", 10.44, 1.0, 0.0, None), ("eager", "fp32", 13.07, 1.0, None, None),
        ("eager", "bf16", 8.52, 0.98, None, None), ("compile", "fp32", None, None, None, "no C++ compiler was found"),
        ("onnxruntime", "int8", 4.87, 0.938, 1.03, "loses more than the budget allows"),
    ]:  # fmt: skip
        rows.append(
            result("runtime", ms or 0.0, "ms", runtime=runtime, precision=precision, available=ms is not None,
                   reason=reason, agreement=same, drop=lost if labels else None,
                   chosen=(runtime, precision) == ("openvino", "bf16"))
        )  # fmt: skip
    for n in (*range(16, 197, 12), 80, 112, 150, 197):
        step = 0.02 * (n // 32 + 1) + n * 0.0011
        rows.append(result("curve", step, "ms", tokens=n, kind="block", n=30, **where))
    tried = []
    for i in range(60):
        ratio = float(rng.uniform(0.42, 0.97))
        kl = float(0.25 * (1 - ratio) ** 2.2 * np.exp(rng.normal(0, 0.5)) + 0.0008)
        tried.append((ratio, kl, f"tome to {int(197 * ratio)} after block {4 + i % 5}, topk to 64 after block 11"))
    tried.append((0.69, 0.0178, ", ".join(map(str, STEPS))))
    for i, (ratio, kl, label) in enumerate(sorted(tried)[::-1]):
        chosen, measured = label == ", ".join(map(str, STEPS)), i % 9 == 0
        ms = 5.2 * (0.18 + 0.82 * ratio)
        best_here = [k for r, k, _ in tried if r <= ratio]
        rows.append(
            result("candidate", ms, "ms", plan=label, loss=kl, agreement=float(np.exp(-2.2 * kl)),
                   drop=float(60 * kl + rng.normal(0, 0.3)) if labels else None,
                   predicted_ms=ms * (1 + 0.03 * float(rng.normal())), measured=measured or chosen, macs_ratio=ratio,
                   method="tome", chosen=chosen, frontier=kl <= min(best_here), **where)
        )  # fmt: skip
    for i, (ms, right, plan) in enumerate(
        [
            (5.137, 88.5, "all tokens"),
            (4.02, 88.1, "topk to 140 after block 4"),
            (3.51, 87.25, "topk to 111 after block 4"),
            (2.884, 84.75, "topk to 81 after block 4"),
            (2.41, 79.5, "topk to 60 after block 4"),
        ]
    ):
        share = ms / 5.137
        rows.append(
            result("point", ms, "ms", index=i, plan=plan, figure=kind.score, images=84, share=share,
                   share_low=share * 0.98, share_high=share * 1.02, quality=right, quality_low=right - 7,
                   quality_high=right + 5, energy_mj=1.9 * share, energy="modelled", energy_source="a made-up meter",
                   gmacs=1.258 * share, tokens=[197] * 12, p99=None, **where)
        )  # fmt: skip
    return rows


COSTS = {  # with labels, without
    True: Value(name="drop", value=0.4, unit="points", low=-0.8, high=1.6, level=0.95, n=84),
    False: Value(name="changed", value=2.4, unit="points", low=0.7, high=8.3, level=0.95, n=84),
}
SAME = Value(name="agreement", value=97.6, unit="%", low=91.7, high=99.3, level=0.95, n=84)
LADDER = (
    Rung(role="full", runtime="openvino", precision="fp32", latency_ms=9.86, share=1.0),
    Rung(role="any", runtime="openvino", precision="bf16", latency_ms=5.137, share=0.521, agreement=99.0,
         cost=Value(name="drop", value=0.1, unit="points", low=-0.9, high=1.1, level=0.95, n=84)),
    Rung(role="plan", runtime="openvino", precision="bf16", latency_ms=3.921, share=0.3977, agreement=97.6,
         cost=COSTS[True], plan=", ".join(map(str, STEPS))),
)  # fmt: skip


def make_verdict(*, labels: bool = True, faster: bool = True, outputs: Outputs = "classes", **fields) -> Verdict:
    kept = BudgetKept(
        text=f"fastest, at most 1 points of {KINDS[outputs].score} lost", outcome="observed", needed=299, points=1.0,
        said="kept as far as these 84 photographs can tell",
    )  # fmt: skip
    told = {
        "outcome": "faster", "outputs": outputs, "reason": "1.31 times faster", "budget": kept, "budget_met": True,
        "baseline": "the best dense build on this machine", "seconds": 151.2, "command": "foveate fit",
        "speedup": SpeedUp(value=1.308, low=1.283, high=1.337, level=0.99, n=700), "cost": COSTS[labels],
        "agreement": SAME, "ladder": LADDER, "next": ("foveate run DIR photo.jpg", "foveate serve DIR"),
        "latency_ms": {"dense": Milliseconds(p50=5.137, p99=6.093, n=700),
                       "plan": Milliseconds(p50=3.921, p99=4.877, n=700)},
        "rejected": (Rejected(plan="topk to 40 after block 2", reason="loses 9.1 points on unseen photographs"),),
    }  # fmt: skip
    if not faster:
        told |= {"outcome": "dense", "reason": "no plan within one point was faster", "speedup": None, "cost": None,
                 "agreement": None, "ladder": LADDER[:2], "latency_ms": {}}  # fmt: skip
    return Verdict.model_validate(told | fields)


def make_photo(name: str, image: Image.Image, outputs: Outputs = "classes") -> Photo:
    told = {"name": name, "jpeg_base64": base64.b64encode(jpeg(image)).decode(), "blocks": source_maps(image)}
    if outputs == "classes":
        told["dense"] = (("shirt", 0.913), ("t-shirt", 0.061), ("longsleeve", 0.012))
        told["reduced"] = (("shirt", 0.874), ("t-shirt", 0.094), ("longsleeve", 0.019))
    elif outputs == "embedding":
        told["reduced_said"] = "cosine 0.987, 9 of 10 neighbours stay"
    else:
        mask = np.kron(np.arange(49).reshape(7, 7) % 5, np.ones((8, 8), int))
        told["dense_mask"] = base64.b64encode(coloured(mask, 4)).decode()
        told["reduced_mask"] = base64.b64encode(coloured(np.roll(mask, 3, 1), 4)).decode()
        told["reduced_said"] = "98.1 % of its pixels stay"
    return Photo.model_validate(told)


def write_folder(
    folder: Path,
    *,
    labels: bool = True,
    faster: bool = True,
    outputs: Outputs = "classes",
    weights: str = "bundled",
    steps: tuple[Step, ...] = STEPS,
    photos: dict[str, Image.Image] | None = None,
    **verdict,
) -> Path:
    """A folder as `foveate fit` leaves it, without the model file."""
    folder.mkdir(parents=True, exist_ok=True)
    ref = ModelRef(name="clothing_vit", weights=weights, tokens=197, depth=12, prefix=1)
    Plan(
        model=ref,
        steps=steps if faster else (),
        target=Target(runtime="openvino", precision="bf16", threads=2),
        planner="pareto",
    ).save(folder / "plan.json")
    rows = make_results(labels, outputs)
    if not faster:
        rows = [r for r in rows if r.tags.get("plan") != "chosen" and not r.tags.get("chosen", False)]
    write_results(folder / "results.jsonl", rows)
    told = {"labels": labels, "faster": faster, "outputs": outputs, "random_weights": weights == "random"}
    make_verdict(**(told | verdict)).save(folder)
    if faster:
        given = {f"photo-{i}.jpg": photo(i) for i in range(2)} if photos is None else photos
        pictures = tuple(make_photo(name, image, outputs) for name, image in given.items())
        Overlays(grid=GRID, images=pictures).save(folder)
    return folder


COMPARED = (
    "pareto", "tome", "topk", "evit", "pitome", "tofu", "pomt", "ats", "foveal", "ppt", "uniform", "random", "dense",
)  # fmt: skip


def compare_results(outputs: Outputs = "classes") -> list[Result]:
    rows, kind = [], KINDS[outputs]
    for k, method in enumerate(COMPARED):
        for i, level in enumerate([0.74, 0.59, 0.45]):

            def add(name, value, unit, spread=0.0, method=method, level=level):
                low, high = (value - spread, value + spread) if spread else (None, None)
                tags = {"method": method, "level": level, "outputs": outputs}
                rows.append(Result(name=name, value=value, unit=unit, low=low, high=high, level=0.95, n=500,
                                   tags=tags, origin=ORIGIN))  # fmt: skip

            add("latency", 3.9 - 0.6 * i + 0.03 * k, "ms")
            add("macs", level * 1.258, "GMAC")
            add("speedup", 1.3 + 0.25 * i - 0.01 * k, "x", 0.02)
            add(kind.score_result, 0.88 - 0.012 * (k + 1) * (i + 0.3), "share", 0.015)
            add("drop", 1.2 * (k + 1) * (i + 0.3) - 0.36, "points", 1.5)
            add("agreement", 0.98 - 0.015 * (k + 1) * (i + 0.3), "share", 0.01)
            add(kind.distance_result, 0.018 * (k + 1) * 2.6**i, kind.unit or "1", 0.004)
    return rows


def write_masks_page(path: Path) -> Path:
    """Three photographs with the masks of 12 classes, one of which never occurs."""
    rng, rows = np.random.default_rng(0), []
    for i in range(3):
        image, truth = photo(i), np.kron(rng.integers(0, 11, (7, 7)), np.ones((32, 32), int)).astype(np.uint8)
        truth[200:] = 255
        views = (("photograph", image), ("true", laid_over(image, truth, 12)), ("found", laid_over(image, truth, 12)))
        rows.append([pane(f"a-rather-long-name-of-a-photograph-{i}.jpg", caption, view) for caption, view in views])
    result = Result(
        name="mIoU", value=61.97, unit="%", low=47.9, high=64.6, level=0.95, n=3, tags={"target": "runs/camvid"}
    )  # fmt: skip
    return write_masks(path, result, [*rng.random(11).tolist(), float("nan")], rows)

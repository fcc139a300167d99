"""A folder as `foveate fit` leaves it, and results as `foveate compare` writes them, made up for the tests of pages."""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from foveate.plans import ModelRef, Plan, Step
from foveate.report.masks import laid_over, pane, write_masks
from foveate.result import Result, write_results
from foveate.target import Target

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


def make_results(labels: bool = True, curves: bool = True) -> list[Result]:
    rng = np.random.default_rng(0)
    where = {"runtime": "openvino", "precision": "bf16", "batch": 1}

    def result(name, value, unit, **more):
        tags = {k: more.pop(k) for k in list(more) if k not in ("low", "high", "level", "n")}
        return Result(name=name, value=value, unit=unit, tags=tags, origin=ORIGIN, **more)

    rows = [
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
        result("kl", 0.0213, "nats", low=0.0148, high=0.0302, level=0.95, n=84, plan="chosen", split="unseen"),
        result("peak_matmul_fp32", 163.2, "GFLOP/s", n=9, what="1536 x 1536 matrix product", precision="fp32"),
        result("peak_matmul_bf16", 1214.0, "GFLOP/s", n=9, what="1536 x 1536 matrix product", precision="bf16"),
        result("peak_copy", 21.4, "GB/s", n=9, what="copy of 128 MiB"),
    ]  # fmt: skip
    if labels:
        rows += [
            result("accuracy", 0.881, "share", low=0.795, high=0.934, level=0.95, n=84, plan="chosen", split="unseen"),
            result("accuracy", 0.885, "share", low=0.8, high=0.937, level=0.95, n=84, plan="dense", split="unseen"),
            result("drop", 0.4, "points", low=-0.8, high=1.6, level=0.95, n=84, plan="chosen", split="unseen"),
        ]
    for runtime, precision, ms, same, reason in [
        ("openvino", "bf16", 5.21, 0.99, None), ("openvino", "fp32", 9.86, 1.0, None),
        ("onnxruntime", "fp32", 10.44, 1.0, None), ("eager", "fp32", 13.07, 1.0, None),
        ("eager", "bf16", 8.52, 0.98, None), ("compile", "fp32", None, None, "no C++ compiler was found"),
        ("onnxruntime", "int8", None, None, "left out of auto: changes every layer's numbers"),
    ]:  # fmt: skip
        rows.append(
            result("runtime", ms or 0.0, "ms", runtime=runtime, precision=precision, available=ms is not None,
                   reason=reason, agreement=same, chosen=(runtime, precision) == ("openvino", "bf16"))
        )  # fmt: skip
    if curves:
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
            result("candidate", ms, "ms", plan=label, kl=kl, agreement=float(np.exp(-2.2 * kl)),
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
            result("point", ms, "ms", index=i, plan=plan, figure="top-1", images=84, share=share,
                   share_low=share * 0.98, share_high=share * 1.02, quality=right, quality_low=right - 7,
                   quality_high=right + 5, energy_mj=1.9 * share, energy="modelled", energy_source="a made-up meter",
                   gmacs=1.258 * share, tokens=[197] * 12, p99=None, **where)
        )  # fmt: skip
    return rows


def write_folder(
    folder: Path,
    *,
    labels: bool = True,
    faster: bool = True,
    weights: str = "bundled",
    photos: dict[str, Image.Image] | None = None,
    **verdict,
) -> Path:
    """A folder as `foveate fit` leaves it, without the model file."""
    folder.mkdir(parents=True, exist_ok=True)
    ref = ModelRef(name="clothing_vit", weights=weights, tokens=197, depth=12, prefix=1)
    Plan(
        model=ref,
        steps=STEPS if faster else (),
        target=Target(runtime="openvino", precision="bf16", threads=2),
        planner="pareto",
    ).save(folder / "plan.json")
    rows = make_results(labels)
    if not faster:
        rows = [r for r in rows if r.tags.get("plan") != "chosen" and not r.tags.get("chosen", False)]
    write_results(folder / "results.jsonl", rows)
    told = {
        "outcome": "faster" if faster else "dense", "reason": "no plan within one point was faster", "seconds": 151.2,
        "random_weights": weights == "random", "command": "foveate fit", "speedup": None,
    }  # fmt: skip
    (folder / "verdict.json").write_text(json.dumps(told | verdict))
    if faster:
        pictures = []
        for name, image in (photos or {f"photo-{i}.jpg": photo(i) for i in range(2)}).items():
            pictures.append(
                {"name": name, "jpeg_base64": base64.b64encode(jpeg(image)).decode(),
                 "dense": [["shirt", 0.913], ["t-shirt", 0.061], ["longsleeve", 0.012]],
                 "reduced": [["shirt", 0.874], ["t-shirt", 0.094], ["longsleeve", 0.019]],
                 "blocks": source_maps(image)}
            )  # fmt: skip
        (folder / "overlays.json").write_text(json.dumps({"grid": GRID, "images": pictures}))
    return folder


def compare_results() -> list[Result]:
    rows = []
    for k, method in enumerate(["pareto", "tome", "topk", "evit", "pitome", "tofu", "pomt", "ats", "random"]):
        for i, level in enumerate([0.74, 0.59, 0.45]):

            def add(name, value, unit, spread=0.0, method=method, level=level):
                low, high = (value - spread, value + spread) if spread else (None, None)
                rows.append(Result(name=name, value=value, unit=unit, low=low, high=high, level=0.95, n=500,
                                   tags={"method": method, "level": level}, origin=ORIGIN))  # fmt: skip

            add("latency", 3.9 - 0.6 * i + 0.03 * k, "ms")
            add("macs", level * 1.258, "GMAC")
            add("speedup", 1.3 + 0.25 * i - 0.01 * k, "x", 0.02)
            add("accuracy", 0.88 - 0.012 * (k + 1) * (i + 0.3), "share", 0.015)
            add("drop", 1.2 * (k + 1) * (i + 0.3) - 0.36, "points", 1.5)
            add("agreement", 0.98 - 0.015 * (k + 1) * (i + 0.3), "share", 0.01)
            add("kl", 0.018 * (k + 1) * 2.6**i, "nats", 0.004)
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

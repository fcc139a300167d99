"""Attention between the projections, three kinds: python -m benchmarks.attention_cores    (quiet machine, 15 min)

Six heads of 64 channels, one image, 197 to 4,096 tokens, random values; then whole models, DeiT-S at 224 pixels and
ViT-S/14 at 518, with random weights. Memory: what the first call adds to a process that has loaded torch and the
inputs, eager in fp32.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from benchmarks.common import Sheet, beside_dense, say
from foveate.adapters import adapt
from foveate.attention import CORES
from foveate.fitting.bench import rounds_for
from foveate.hardware.device import default_threads
from foveate.hardware.timer import speedup
from foveate.loading.load import load
from foveate.models.reparameterized import reparameterize
from foveate.runtimes import RUNTIMES, Worker

HEADS, WIDTH = 6, 64
TOKENS = (197, 577, 1024, 4096)
WHERE = (("compile", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
MODELS = {"DeiT-S, 224": ("deit_small_patch16_224", {}), "ViT-S/14, 518": ("vit_small_patch14_dinov2", {})}
BASE = "softmax"
MEMORY = """
import json, re, sys, torch
from pathlib import Path
from foveate.attention import CORES
name, tokens, heads, width = sys.argv[1], *map(int, sys.argv[2:])
core = CORES[name].of(heads, width, tokens).eval()
with torch.inference_mode():
    q, k, v = torch.randn(3, 1, heads, tokens, width)
    small = torch.randn(3, 1, heads, 16, width)
    core(*small)
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
    told = lambda name: int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    before = told("VmRSS")
    core(q, k, v)
print(json.dumps((told("VmHWM") - before) / 1024))
"""


class Alone(nn.Module):
    """x [1 N 3C], as `qkv` leaves it -> [1 N C]."""

    def __init__(self, name: str, tokens: int) -> None:
        super().__init__()
        self.core = CORES[name].of(HEADS, WIDTH, tokens)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x.unflatten(-1, (3, HEADS, WIDTH)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.core(q, k, v).transpose(1, 2).flatten(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--fresh", action="store_true", help="measure all rows anew")
    sheet = Sheet("attention_cores", fresh=parser.parse_args().fresh, threads=default_threads())
    for tokens in TOKENS:
        for runtime, precision in WHERE:
            if reason := RUNTIMES[runtime].why_not(precision):
                say(f"{runtime} {precision}: {reason}")
            elif f"{tokens} {runtime} {precision} {BASE}" not in sheet.value["rows"]:
                alone(sheet, tokens, runtime, precision)
        for name in CORES:
            sheet.row(f"{tokens} memory {name}", lambda name=name, tokens=tokens: memory(name, tokens))
    for label, (name, options) in MODELS.items():
        for runtime, precision in WHERE[1:]:
            if RUNTIMES[runtime].why_not(precision) is None:
                whole(sheet, label, name, options, runtime, precision)


def alone(sheet: Sheet, tokens: int, runtime: str, precision: str) -> None:
    x = np.random.default_rng(0).standard_normal((1, tokens, 3 * HEADS * WIDTH), dtype=np.float32)
    order = [BASE, *(name for name in CORES if name != BASE)]
    with tempfile.TemporaryDirectory() as tmp, Worker(runtime, threads=default_threads()) as worker:
        for name in order:
            file = RUNTIMES[runtime].build(
                Alone(name, tokens).eval(), Path(tmp) / name, shape=x.shape, precision=precision
            )  # fmt: skip
            worker.load(name, file, precision=precision)
        inputs = [x] * len(order)
        first = float(np.median(worker.time(order, inputs, rounds=3, warmup=2, seed=0), axis=1).sum())
        ms = worker.time(order, inputs, rounds=rounds_for(first, 6.0, least=15), warmup=1, seed=1)
    for name, own in zip(order, ms, strict=True):
        row = {"tokens": tokens, "where": f"{runtime} {precision}", "kind": name, **beside(ms[0], own)}
        row["gmac"] = CORES[name].of(HEADS, WIDTH, tokens).macs(tokens, HEADS, WIDTH) / 1e9
        sheet.row(f"{tokens} {runtime} {precision} {name}", lambda row=row: row)


def beside(base: np.ndarray, own: np.ndarray) -> dict[str, Any]:
    s = speedup(base, own, level=0.95)
    return {"ms": float(np.median(own)), "faster": s.value, "low": s.low, "high": s.high, "rounds": len(own)}


def memory(name: str, tokens: int) -> dict[str, Any]:
    words = [sys.executable, "-c", MEMORY, name, *map(str, (tokens, HEADS, WIDTH))]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return {"tokens": tokens, "where": "memory", "kind": name, "mib": json.loads(done.stdout)}


def whole(sheet: Sheet, label: str, name: str, options: dict[str, Any], runtime: str, precision: str) -> None:
    key = lambda kind: f"{label} {runtime} {precision} {kind}"
    kinds = [kind for kind in CORES if kind != BASE]
    if all(key(kind) in sheet.value["rows"] for kind in kinds):
        return
    vit = load(name, random_weights=True, **options)
    with beside_dense(vit, runtime, precision, 1) as bench:
        for kind in kinds:
            bench.add(kind, module=adapt(reparameterize(vit.model, attention=kind)).eval())
        labels = ["dense", *kinds]
        first = bench.time(labels, 3, warmup=1).median("dense")
        base, *others = bench.time(labels, rounds_for(first, 12.0, least=15)).ms
        for kind, own in zip(kinds, others, strict=True):
            row = {"model": label, "where": f"{runtime} {precision}", "kind": kind, **beside(base, own)}
            sheet.row(key(kind), lambda row=row: row)
        row = {"model": label, "where": f"{runtime} {precision}", "kind": BASE, **beside(base, base)}
        sheet.row(key(BASE), lambda: row)


if __name__ == "__main__":
    main()

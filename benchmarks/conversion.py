"""The real ViT-Tiny converted, beside other builds: FOVEATE_DATA=... python -m benchmarks.conversion --data clothing

Trains first (hours; `--resume` goes on): the dense model fine-tuned on the data, then its conversions, each from the
dense model's own answers. Then measures what each deployed file answers on the test set and how long it takes, all of
one precision by turns in one process (quiet machine, 10 min).
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from benchmarks.common import Sheet, against, beside_dense, data_folder, say, told
from foveate.adapters import adapt, describe
from foveate.adapters.macs import macs_of
from foveate.commands.energy import energies
from foveate.commands.reparameterize import Training, Words, convert
from foveate.evaluate import accuracy
from foveate.evaluate.answers import photographs
from foveate.evaluate.metrics import lost_points
from foveate.hardware.device import default_threads
from foveate.loading.load import Loaded, load
from foveate.planning.shorthand import steps
from foveate.runtimes import RUNTIMES
from foveate.train import Augment, Classify, Recipe, train
from foveate.train.state import LAST

NAME = "vit_tiny_patch16_224"
WEIGHTS = "weights/vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
DATA = {  # archive, test split, epochs of the dense model and of a conversion's stage
    "clothing": ("clothing10/clothing10_160.zip", "test", 8, 12),
    "imagenette": ("imagenette10/imagenette10_112.zip", "val", 2, 4),
}
CONVERSIONS = {
    "sigmoid": Words(attention="sigmoid"),
    "hashed_linear": Words(attention="hashed_linear"),
    "shift": Words(mlp="shift"),
    "mixture": Words(mlp="mixture"),
    "hashed_linear, mixture": Words(attention="hashed_linear", mlp="mixture"),
}
REDUCED = 8  # tokens fewer a block, by ToMe
PRECISIONS = ("bf16", "int8")


def from_weights(model: nn.Module) -> None:
    """The pretrained ViT-Tiny with a new classifier."""
    vit: Any = load(NAME, weights=data_folder() / WEIGHTS).model
    vit.reset_classifier(10)
    nn.init.zeros_(vit.head.weight)
    model.load_state_dict(vit.state_dict())


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--data", choices=DATA, default="clothing")
    args.add_argument("--runs", type=Path, default=Path("runs"))
    args.add_argument("--only", nargs="+", choices=CONVERSIONS, default=list(CONVERSIONS))
    args.add_argument("--measure", action="store_true", help="train nothing, measure what is there")
    args.add_argument("--fresh", action="store_true", help="measure all rows anew")
    a = args.parse_args()
    archive, split, epochs, stage = DATA[a.data]
    data, runs = data_folder() / archive, a.runs / f"conversion-{a.data}"
    if not a.measure:
        dense = trained(data, runs / "dense", epochs)
        for name in a.only:
            converted(dense, data, runs / folder_of(name), CONVERSIONS[name], stage)
    measure(a.data, data / split, runs, fresh=a.fresh)


def trained(data: Path, out: Path, epochs: int) -> Loaded:
    """The dense model, fine-tuned with labels."""
    recipe = Recipe(
        model=NAME, start=from_weights, data=os.fspath(data), task=Classify(smoothing=0.1), epochs=epochs, batch=32,
        lr=5e-4, layer_decay=0.75, warmup_epochs=1, weight_decay=0.05, ema=0.99,
        augment=Augment(scale=(0.35, 1.0), color_jitter=0.3),
    )  # type: ignore[arg-type]  # fmt: skip
    train(recipe, out, resumed=(out / LAST).exists(), progress=told())
    return load(str(out))


def converted(dense: Loaded, data: Path, out: Path, words: Words, epochs: int) -> None:
    done = convert(
        dense, os.fspath(data), out, words, Training(epochs=epochs, batch=32, lr=3e-4),
        resumed=(out / "conversion.json").exists(), progress=told(),
    )  # fmt: skip
    for name, each in done.stages.items():
        say(f"{out.name} {name}: {each.best_score:.2f} % agreement in {each.seconds / 60:.0f} min")


def folder_of(name: str) -> str:
    return name.replace(", ", "-")


def measure(name: str, test: Path, runs: Path, *, fresh: bool) -> None:
    dense = load(str(runs / "dense"))
    photos = photographs(test, dense, limit=None)
    x = photos.array(dense.preprocess)
    assert photos.labels is not None
    labels = photos.labels
    sheet = Sheet(f"conversion_{name}", fresh=fresh, threads=default_threads(), images=len(photos))
    facts = describe(dense.model)
    whole = facts.macs(facts.cut(()))
    models: dict[str, Callable[[], nn.Module]] = {
        "tokens reduced": lambda: adapt(dense.model, steps(dense.model, "tome", r=REDUCED))
    }
    for kind in CONVERSIONS:
        if (runs / folder_of(kind) / "best.safetensors").exists():
            models[kind] = lambda kind=kind: adapt(load(str(runs / folder_of(kind))).model)
            models[f"{kind}, tokens reduced"] = lambda kind=kind: reduced(load(str(runs / folder_of(kind))).model)
    base_hits: np.ndarray | None = None
    for precision in PRECISIONS:
        if reason := RUNTIMES["openvino"].why_not(precision):
            say(f"openvino {precision}: {reason}")
            continue
        with beside_dense(dense, "openvino", precision, 1) as bench:
            bench.calibration = x[:128]
            hits = bench.outputs("dense", x).argmax(1) == labels
            base_hits = hits if base_hits is None else base_hits
            for kind, make in {"dense": lambda: adapt(dense.model), **models}.items():
                key = f"{precision} {kind}"
                if key in sheet.value["rows"]:
                    continue
                module: Any = make().eval()
                build = bench.builds["dense"] if kind == "dense" else bench.add(kind, module=module)
                answers = bench.outputs(build.label, x)
                base, own = bench.time(["dense", build.label], 200).ms
                top1, mine = accuracy(answers, labels), answers.argmax(1) == labels
                lost = lost_points(base_hits, mine)
                row = {
                    "kind": kind, "top1": top1.value, "top1_low": top1.low, "top1_high": top1.high,
                    "lost": lost.value, "lost_low": lost.low, "lost_high": lost.high,
                    "bytes": build.file.with_suffix(".bin").stat().st_size,
                    "energy_mj": energy(module, bits=8 if precision == "int8" else 16),
                    **against(bench, base, own, macs_of(module).total / whole),
                }  # fmt: skip
                sheet.row(key, lambda row=row: row)
                if kind != "dense":
                    bench.drop(kind)


def reduced(model: nn.Module) -> nn.Module:
    return adapt(model, steps(model, "tome", r=REDUCED))


def energy(module: nn.Module, bits: int) -> dict[str, float]:
    """On the modelled accelerator, by both ways of charging."""
    rows = energies(module, bits=bits)
    return {r["movement"]: r["energy_mj"] for r in rows if r["part"] == "all"}


if __name__ == "__main__":
    main()

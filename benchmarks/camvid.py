"""CamVid: a Segmenter on ViT-Ti and on ViTTM-Ti, both from the real ViT-Tiny, same head, data and epochs.

Needs FOVEATE_DATA. Half an hour each on two cores, then latency in every runtime. A run that was broken off
goes on from its last checkpoint.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Sheet, cells, contest, data_folder, told
from foveate.adapters import describe
from foveate.commands.evaluate import evaluate
from foveate.loading.load import Loaded, load
from foveate.train import load_recipe, train

RECIPES = Path(__file__).parent.parent / "recipes"
KINDS = {"ViT/16": "camvid_vit", "ViTTM 28/28": "camvid_vittm"}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--fresh", action="store_true")
    args.add_argument("--model", action="append", choices=list(KINDS))
    args.add_argument("--out", type=Path, default=Path("runs"))
    args.add_argument("--runtime", action="append")
    args.add_argument("--rounds", type=int, default=100)
    args.add_argument("--speed", action="store_true", help="only time what is trained already, on a quiet machine")
    a = args.parse_args()
    sheet = Sheet("camvid", fresh=a.fresh)
    for kind in () if a.speed else a.model or KINDS:
        sheet.row(kind, partial(one, kind, a.out))
    if a.model is not None:
        return
    first, *others = KINDS
    vit, models = run_of(first, a.out), {kind: run_of(kind, a.out).model for kind in others}
    for runtime, precision, batch in cells(a.runtime, (1,)):
        contest(sheet, "trained", vit, models, runtime, precision, batch, a.rounds)


def run_of(kind: str, out: Path) -> Loaded:
    return load(str(out / KINDS[kind]))


def one(kind: str, out: Path) -> dict[str, Any]:
    data = data_folder() / "camvid11" / "camvid11_480x360.zip"
    recipe, where = load_recipe(RECIPES / f"{KINDS[kind]}.py"), out / KINDS[kind]
    done = train(recipe, where, resumed=(where / "last.pt").exists(), progress=told())
    judged = evaluate(where, task="segmentation", data=data, split="test", page=where / "masks.html")
    facts = describe(run_of(kind, out).model)
    return {
        "kind": kind, "best_validation": done.best_score, "miou": judged.value, "low": judged.low, "high": judged.high,
        "images": judged.n, "pixels": judged.tags["pixels"], "gmacs": facts.macs(facts.cut(())) / 1e9,
        "epochs": recipe.epochs, "minutes": done.seconds / 60,
    }  # fmt: skip


if __name__ == "__main__":
    main()

"""CamVid: a Segmenter on ViT-Ti and on ViTTM-Ti, both from the real ViT-Tiny, same head, data and epochs.

Needs FOVEATE_DATA. Half an hour each on two cores; a run that was broken off goes on from its last checkpoint.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Sheet, data_folder, told
from foveate import load
from foveate.adapters import describe
from foveate.fitting.evaluating import evaluate
from foveate.train import load_recipe, train

RECIPES = Path(__file__).parent.parent / "recipes"
KINDS = {"ViT/16": "camvid_vit", "ViTTM 28/28": "camvid_vittm"}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--fresh", action="store_true")
    args.add_argument("--model", action="append", choices=list(KINDS))
    args.add_argument("--out", type=Path, default=Path("runs"))
    a = args.parse_args()
    sheet = Sheet("camvid", fresh=a.fresh)
    for kind in a.model or KINDS:
        sheet.row(kind, partial(one, kind, a.out))


def one(kind: str, out: Path) -> dict[str, Any]:
    data = data_folder() / "camvid11" / "camvid11_480x360.zip"
    recipe, where = load_recipe(RECIPES / f"{KINDS[kind]}.py"), out / KINDS[kind]
    done = train(recipe, where, resumed=(where / "last.pt").exists(), progress=told())
    judged = evaluate(where, task="segmentation", data=data, split="test", page=where / "masks.html")
    facts = describe(load(str(where)).model)
    return {
        "kind": kind, "best_validation": done.best_score, "miou": judged.value, "low": judged.low, "high": judged.high,
        "images": judged.n, "pixels": judged.tags["pixels"], "gmacs": facts.macs(facts.cut(())) / 1e9,
        "epochs": recipe.epochs, "minutes": done.seconds / 60,
    }  # fmt: skip


if __name__ == "__main__":
    main()

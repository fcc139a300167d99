"""Do sigmoid gates need fewer photographs? FOVEATE_DATA=... python -m benchmarks.sigmoid_data    (2 h; goes on)

The small ViT of recipes/imagenette.py from scratch on 10, 25, 50 and 100 % of Imagenette, with softmax and with sigmoid
attention, three seeds each. Both have normalised queries and keys and LayerScale, which sigmoid attention's authors
advise, and the same parts of the data. Fewer photographs come by more often: 14 / sqrt(share) epochs.
"""

import argparse
import json
import math
import random
import zipfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Sheet, data_folder, told
from foveate.evaluate.metrics import wilson
from foveate.train import load_recipe, train
from foveate.train.state import LAST

ARCHIVE = "imagenette10/imagenette10_112.zip"
RECIPE = Path(__file__).parent.parent / "recipes" / "imagenette.py"
SHARES, GATES, SEEDS, EPOCHS = (0.1, 0.25, 0.5, 1.0), ("softmax", "sigmoid"), (0, 1, 2), 14
STABLE: dict[str, Any] = {"qk_norm": True, "init_values": 1e-4}


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--runs", type=Path, default=Path("runs/sigmoid-data"))
    args.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    args.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    a = args.parse_args()
    sheet = Sheet("sigmoid_data")
    for seed in a.seeds:
        for share in a.shares:
            part = a.runs / f"data-{share:g}-{seed}"
            for gate in GATES:
                out = a.runs / f"{gate}-{share:g}-{seed}"
                sheet.row(f"{gate} {share:g} {seed}", partial(learnt, gate, share, seed, part, out))


def learnt(gate: str, share: float, seed: int, part: Path, out: Path) -> dict[str, Any]:
    """One run; what its best weights get right of the validation set."""
    photographs = subset(part, share, seed)
    epochs = round(EPOCHS / math.sqrt(share))
    recipe = load_recipe(RECIPE)
    options = recipe.options | STABLE
    changes: dict[str, Any] = {"data": str(part), "seed": seed, "epochs": epochs, "options": options}
    if gate != "softmax":
        changes |= {"model": "reparameterized_vit", "options": options | {"attention": gate}}
    done = train(
        recipe.model_copy(update=changes), out, resumed=(out / LAST).exists(), progress=told()
    )  # fmt: skip
    count = validation(part)
    low, high = wilson(round(done.best_score / 100 * count), count)
    return {
        "gate": gate, "share": share, "seed": seed, "photographs": photographs, "epochs": epochs,
        "top1": done.best_score, "low": 100 * low, "high": 100 * high, "seconds": done.seconds,
    }  # fmt: skip


def subset(part: Path, share: float, seed: int) -> int:
    """A share of every class's training photographs, and the whole validation set, as folders; how many there are."""
    counts = part / "counts.json"
    if not counts.exists():
        with zipfile.ZipFile(data_folder() / ARCHIVE) as archive:
            by_class = defaultdict(list)
            for name in sorted(n for n in archive.namelist() if not n.endswith("/")):
                split, _, rest = name.partition("/")
                if split in ("train", "val") and "/" in rest:
                    by_class[split, rest.partition("/")[0]].append(name)
            lot = random.Random(seed)
            total = {"train": 0, "val": 0}
            for (split, _), names in sorted(by_class.items()):
                kept = names if split == "val" else lot.sample(names, round(share * len(names)))
                archive.extractall(part, kept)
                total[split] += len(kept)
        counts.write_text(json.dumps(total))
    return int(json.loads(counts.read_text())["train"])


def validation(part: Path) -> int:
    return int(json.loads((part / "counts.json").read_text())["val"])


if __name__ == "__main__":
    main()

"""One IRET-style model that follows each image: thresholds in place of counts, and exits taken when they are sure.

The trained model of `benchmarks.iret_frontier` in PyTorch, fp32, image by image on the test photographs of clothing10;
multiply-adds are counted as they happen. Beside it the ViT, reduced to as many tokens in the same blocks by other
means. Nothing is timed: what is deployed has fixed counts. Needs FOVEATE_DATA.
"""

import argparse
import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import RESULTS, Sheet, data_folder
from benchmarks.iret_frontier import DENSE, IRET, folder_of
from foveate.adapters import Facts, adapt, describe
from foveate.evaluate import accuracy
from foveate.evaluate.answers import photographs
from foveate.loading.load import load
from foveate.models.iret import Thresholds
from foveate.plans import Step

DROP, FOCUS = (0.0, 0.5, 0.75, 1.0, 1.25), (0.0, 1.0)
SAME = ("topk", "evit", "foveal")  # on the fine-tuned ViT, without training, where the IRET-style plan drops
SURE = (0.0, 0.5, 0.7, 0.9, 0.99, 1.01)


def over(images: np.ndarray, answer: Callable[[Tensor], Tensor]) -> tuple[np.ndarray, list[float]]:
    """Logits [n classes], and the GMACs of each image."""
    logits, macs = [], []
    for x in images:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            logits.append(answer(torch.from_numpy(x)[None])[0].numpy())
        macs.append(counter.get_total_flops() / 2e9)
    return np.stack(logits), macs


def until_sure(model: Any, image: Tensor, sure: float) -> Tensor:
    logits = None
    for _, logits in model.anytime(image):
        if float(logits.softmax(-1).max()) >= sure:
            break
    assert logits is not None
    return logits


def by(method: str, steps: list[Step], facts: Facts) -> list[Step]:
    """The same counts by another method; merging takes at most half of a block's patches."""
    made, before = [], facts.tokens
    for step in steps:
        least = 0 if method in ("topk", "evit") else before - (before - facts.prefix) // 2
        before = max(step.tokens, least)
        made.append(Step(block=step.block, method=method, tokens=before))
    return made


def aimed() -> list[Step]:
    """The steps of the IRET-style plan that `benchmarks.iret_frontier` compares; none where it has not run."""
    path = RESULTS / "iret_frontier.json"
    rows = json.loads(path.read_text())["rows"].values() if path.exists() else []
    found = [r["steps"] for r in rows if r["kind"] == IRET and r["aimed"]]
    return [Step(**step) for step in found[0]] if found else []


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--fresh", action="store_true")
    args.add_argument("--out", type=Path, default=Path("runs"))
    a = args.parse_args()
    loaded = load(str(folder_of(a.out, IRET)))
    model: Any = loaded.model.eval()
    test = photographs(data_folder() / "clothing10" / "clothing10_160.zip" / "test", loaded, limit=None)
    x = test.array(loaded.preprocess)
    sheet = Sheet("iret_adaptive", fresh=a.fresh, images=len(test), data="clothing10 test")

    def row(answer: Callable[[Tensor], Tensor], **tags: Any) -> dict[str, Any]:
        logits, macs = over(x, answer)
        top1 = accuracy(logits, test.labels)
        return tags | {
            "top1": top1.value, "top1_low": top1.low, "top1_high": top1.high, "gmacs": float(np.mean(macs)),
            "gmacs_low": float(np.quantile(macs, 0.05)), "gmacs_high": float(np.quantile(macs, 0.95)),
        }  # fmt: skip

    for focus, drop in product(FOCUS, DROP):
        at = Thresholds(drop=(drop,), focus=(max(drop, focus),))
        sheet.row(
            f"drop {drop:g} focus {max(drop, focus):g}",
            lambda at=at: row(lambda i: model(i, at), kind="thresholds", drop=at.drop[0], focus=at.focus[0]),
        )
    vit, steps = load(str(folder_of(a.out, DENSE))).model, aimed()
    for method in SAME if steps else ():
        same = adapt(vit, by(method, steps, describe(vit))).eval()
        sheet.row(
            f"same counts {method}", lambda same=same, method=method: row(same, kind="same counts", method=method)
        )
    if steps:
        own = adapt(model, steps).eval()
        sheet.row("same counts IRET-style", lambda: row(own, kind="same counts", method="IRET-style"))
    for sure in SURE:
        sheet.row(
            f"sure {sure:g}", lambda sure=sure: row(lambda i: until_sure(model, i, sure), kind="exits", sure=sure)
        )


if __name__ == "__main__":
    main()

"""One IRET-style model that follows each image: thresholds in place of counts, and exits taken when they are sure.

The trained model of `benchmarks.iret_frontier` in PyTorch, fp32, image by image on the test photographs of clothing10;
multiply-adds are counted as they happen. Nothing is timed: what is deployed has fixed counts. Needs FOVEATE_DATA.
"""

import argparse
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Sheet, data_folder
from benchmarks.iret_frontier import IRET, folder_of
from foveate.adapters.load import load
from foveate.evaluate import metrics
from foveate.fitting.bench import photographs
from foveate.models.iret import Thresholds

DROP, FOCUS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25), (0.0, 1.0)
SURE = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.01)


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
        top1 = metrics.accuracy(logits, test.labels)
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
    for sure in SURE:
        sheet.row(
            f"sure {sure:g}", lambda sure=sure: row(lambda i: until_sure(model, i, sure), kind="exits", sure=sure)
        )


if __name__ == "__main__":
    main()

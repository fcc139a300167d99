"""What it is worth in training that the C library keeps freed memory (foveate/hardware/memory.py): time of a step.

The real loop on real photographs (recipes/clothing_reduced.py without its plan: a ViT-Tiny, batch 32), a fresh process
each time, with and without by turns. Needs FOVEATE_DATA.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.common import Sheet
from benchmarks.iret_frontier import DENSE, recipe_of
from foveate.hardware.device import default_threads
from foveate.hardware.timer import speedup
from foveate.train import loop
from foveate.train.recipe import changed

WARM, STEPS = 3, 15


class Enough(Exception):
    pass


def steps(kept: bool, precision: str) -> list[float]:
    """Seconds of each of STEPS steps, in this process."""
    if not kept:
        loop.keep_freed_memory = lambda: False
    ends: list[float] = []

    def count(stage: str, share: float, text: str) -> None:
        if stage == "train":
            ends.append(time.monotonic())
            if len(ends) == WARM + STEPS + 1:
                raise Enough

    with tempfile.TemporaryDirectory() as out:
        try:
            loop.train(changed(recipe_of(DENSE), [f"precision={precision}"]), out, progress=count)
        except Enough:
            return np.diff(ends)[WARM:].tolist()
    raise RuntimeError("the epoch was too short")


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--fresh", action="store_true")
    args.add_argument("--rounds", type=int, default=3)
    args.add_argument("--child", nargs=2, metavar=("KEPT", "PRECISION"), help=argparse.SUPPRESS)
    a = args.parse_args()
    if a.child:
        print(json.dumps(steps(a.child[0] == "kept", a.child[1])))
        return
    sheet = Sheet("training_step", fresh=a.fresh, threads=default_threads(), batch=32, model="vit_tiny_patch16_224")
    for precision in ("bf16", "fp32"):

        def measure(precision: str = precision) -> dict[str, object]:
            took: dict[str, list[float]] = {"left": [], "kept": []}
            for turn in range(a.rounds):
                for kind in sorted(took, reverse=turn % 2 == 1):
                    command = [sys.executable, "-m", "benchmarks.training_step", "--child", kind, precision]
                    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                    took[kind] += json.loads(said)
            s = speedup(np.array(took["left"]), np.array(took["kept"]), level=0.95)
            left, kept = (float(np.median(took[k])) for k in ("left", "kept"))
            return {
                "precision": precision,
                "left_s": left,
                "kept_s": kept,
                "times": s.value,
                "low": s.low,
                "high": s.high,
            }

        sheet.row(precision, measure)


if __name__ == "__main__":
    main()

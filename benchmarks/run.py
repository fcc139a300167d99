"""Every benchmark, one after the other, each in a process of its own; then the table in the docs."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = [
    ["benchmarks.latency_ratio"],
    ["benchmarks.prediction", "--runtime", "openvino"],
    ["benchmarks.prediction", "--runtime", "onnxruntime"],
    ["benchmarks.vittm_latency"],
    ["benchmarks.segmentation_speed"],
    ["benchmarks.iret_latency"],
]
WITH_DATA = [["benchmarks.vit_tiny_kl"], ["benchmarks.gate"], ["benchmarks.vit_tiny"], ["benchmarks.fitted"],
             ["benchmarks.vittm_accuracy"],
             ["benchmarks.vittm_equal"], ["benchmarks.camvid"],
             ["benchmarks.iret_frontier"], ["benchmarks.iret_adaptive"],
             # One thread for the model, so that the others are left to HTTP.
             ["foveate", "fit", "runs/clothing-vit", "--points", "8", "--threads", "1", "--out", "runs/elastic",
              "--data", "$FOVEATE_DATA/clothing10/clothing10_160.zip/validation"],
             ["benchmarks.serving", "--folder", "runs/elastic"], ["benchmarks.vlm_speed"]]  # fmt: skip


def main() -> None:
    wanted = SCRIPTS + (WITH_DATA if os.environ.get("FOVEATE_DATA") else [])
    for module, *args in [*wanted, ["benchmarks.table"], ["benchmarks.plots"]]:
        args = [os.path.expandvars(arg) for arg in args]
        print(f"== {module} {' '.join(args)}", flush=True)
        subprocess.run([sys.executable, "-m", module, *args], check=True, cwd=Path(__file__).parent.parent)
    if not os.environ.get("FOVEATE_DATA"):
        print("FOVEATE_DATA is not set: the benchmarks on real photographs were left out")


if __name__ == "__main__":
    main()

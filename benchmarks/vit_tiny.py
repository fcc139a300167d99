"""The real ViT-Tiny on 1,000 labelled photographs: every method and the planner at three latency levels.

Needs FOVEATE_DATA (weights/ and nips17_dev/). Planned on 40 % of the photographs, scored on the other 60 % by the file
that would be deployed.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.common import Sheet, data_folder, say
from foveate.commands.compare import compare
from foveate.hardware.device import default_threads


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--runtime", default="auto")
    args.add_argument("--precision", default="auto")
    args.add_argument("--seconds", type=float, default=120.0)
    args.add_argument("--fresh", action="store_true")
    a = args.parse_args()
    data = data_folder()
    weights = data / "weights" / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
    with tempfile.TemporaryDirectory() as tmp:
        rows = compare(
            "vit_tiny_patch16_224", weights=weights, data=data / "nips17_dev" / "nips17_dev_299.zip", images=1000,
            runtime=a.runtime, precision=a.precision, levels=(0.9, 0.8, 0.7), out=Path(tmp) / "out", pairs=200,
            seconds=a.seconds, progress=lambda stage, share, text: say(f"{stage} {share:.0%} {text}"),
        )  # fmt: skip
    sheet = Sheet("vit_tiny_methods", fresh=True, threads=default_threads(), model="vit_tiny_patch16_224 (augreg)",
                  data="nips17_dev, 400 to plan on, 600 unseen", seconds=a.seconds)  # fmt: skip
    for row in rows:
        named = {f"kl{end}": row.pop(f"loss{end}") for end in ("", "_low", "_high")} | {"accuracy": row.pop("score")}
        sheet.row(f"{row['level']:g} {row['method']}", lambda row=row | named: row)


if __name__ == "__main__":
    main()

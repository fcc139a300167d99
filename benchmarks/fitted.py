"""One fit of the real ViT-Tiny, from end to end: what the README shows first.

    FOVEATE_DATA=... python -m benchmarks.fitted                 # fits, minutes on a quiet machine
    python -m benchmarks.fitted --from FOLDER                    # takes a folder that `foveate fit` wrote

Needs FOVEATE_DATA (weights/, nips17_dev/). Everything in results/fitted.json is read off the folder that the fit wrote.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, data_folder, say
from foveate.files import read_text, write_text
from foveate.result import read_results

NAME = "vit_tiny_patch16_224"
WEIGHTS = "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"


def fit(out: Path) -> Path:
    import foveate

    data = data_folder()
    foveate.fit(
        NAME, weights=data / "weights" / WEIGHTS, data=data / "nips17_dev" / "nips17_dev_299.zip", images=1000,
        fresh=True, out=out, progress=lambda stage, share, text: None, say=say,
    )  # fmt: skip
    return out


def read(folder: Path) -> dict[str, Any]:
    """The verdict, the dense builds and the latency curve of a fitted folder."""
    verdict = json.loads(read_text(folder / "verdict.json"))
    plan = json.loads(read_text(folder / "plan.json"))
    table = json.loads(read_text(folder / "profile.json"))["table"]
    results = read_results(folder / "results.jsonl")
    dense = [
        {"build": f"{r.tags['runtime']} {r.tags['precision']}", "ms": round(r.value, 3)}
        for r in results
        if r.name == "runtime" and r.tags["available"] and r.value > 0
    ]
    kept = ("reason", "budget", "speedup", "cost", "agreement", "latency_ms", "ladder", "seconds", "stages")
    return {
        "model": f"{NAME}, augreg in21k_ft_in1k", "photographs": "NIPS 2017 dev, 1,000",
        "machine": next(r.origin for r in results if r.name == "speedup"),
        "steps": plan["steps"], "dense": dense, "curve": table["block"], **{key: verdict[key] for key in kept},
    }  # fmt: skip


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--from", type=Path, dest="folder")
    folder = args.parse_args().folder
    with tempfile.TemporaryDirectory() as tmp:
        sheet = read(folder or fit(Path(tmp) / "out"))
    write_text(RESULTS / "fitted.json", json.dumps(sheet, indent=1) + "\n")
    say(sheet["reason"])


if __name__ == "__main__":
    main()

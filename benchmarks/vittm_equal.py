"""At equal latency: fine-tuned ViTTMs and a ViT of larger patches beside the fine-tuned ViT pruned without training.

Takes the models that `benchmarks.vittm_accuracy` left in --out. Plans are searched on clothing10's validation set, for
the latency of each of the others; every row is what the deployed file answers on the test set. Needs FOVEATE_DATA.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common import Sheet, against, beside_dense, data_folder, say
from benchmarks.vittm_accuracy import TUNED, folder_of
from foveate.adapters import adapt, describe
from foveate.commands.matching import LatencyMatcher
from foveate.evaluate import accuracy
from foveate.evaluate.answers import photographs
from foveate.fitting.bench import Bench, Seat
from foveate.hardware.device import default_threads
from foveate.loading.load import load
from foveate.planning import plan_candidates
from foveate.profiling import profile

DENSE = "ViT/16"


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--runtime", default="openvino")
    args.add_argument("--precision", default="bf16")
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--seconds", type=float, default=120.0, help="for the search of plans, at each latency")
    args.add_argument("--pairs", type=int, default=300)
    args.add_argument("--out", type=Path, default=Path("runs"))
    a = args.parse_args()
    data = data_folder() / "clothing10" / "clothing10_160.zip"
    vit = load(str(folder_of(a.out, "tuned", DENSE, a.seed)))
    others = {k: load(str(folder_of(a.out, "tuned", k, a.seed))) for k in TUNED if k != DENSE}
    search, test = (photographs(data / split, vit, limit=None) for split in ("validation", "test"))
    x_search, x_test = search.array(vit.preprocess), test.array(vit.preprocess)
    sheet = Sheet("vittm_equal", fresh=True, threads=default_threads(), seed=a.seed, images=len(test),
                  planned_on=len(search), seconds=a.seconds)  # fmt: skip

    vit_facts = describe(vit.model)
    whole = vit_facts.macs(vit_facts.cut(())) / 1e9

    def judged(bench: Bench, label: str, gmacs: float, **more: Any) -> dict[str, Any]:
        base, other = bench.time(["dense", label], a.pairs).ms
        top1 = accuracy(bench.outputs(label, x_test), test.labels)
        return {
            "top1": top1.value, "top1_low": top1.low, "top1_high": top1.high, "gmacs": gmacs,
            **against(bench, base, other, gmacs / whole), **more,
        }  # fmt: skip

    with beside_dense(vit, a.runtime, a.precision, 1) as bench:
        found = profile(vit.model, bench.target)
        matcher = LatencyMatcher(Seat(bench, "dense"), found)
        sheet.row(DENSE, lambda: judged(bench, "dense", whole))
        for kind, other in others.items():
            facts = describe(other.model)
            bench.add(kind, module=adapt(other.model).eval())
            row = sheet.row(kind, lambda: judged(bench, kind, facts.macs(facts.cut(())) / 1e9))  # noqa: B023  called here
            if (level := row["latency_ratio"]) >= 1:
                continue
            candidates = plan_candidates(
                vit.model, x_search[:96], None if search.labels is None else search.labels[:96], found.table,
                latency_ms=found.dense_ms * level * min(1.0, matcher.optimism), budget_seconds=a.seconds,
            )  # fmt: skip
            label = matcher.best([c for c in candidates if c.steps], level)
            if label is None:
                say(f"no plan of {DENSE} takes as little as {kind}")
                continue
            plan = bench.builds[label].plan
            gmacs, steps = vit_facts.macs(plan.schedule) / 1e9, [s.model_dump() for s in plan.steps]
            sheet.row(f"{DENSE} pruned, as fast as {kind}", lambda: judged(bench, label, gmacs, steps=steps))  # noqa: B023
            bench.drop(label)


if __name__ == "__main__":
    main()

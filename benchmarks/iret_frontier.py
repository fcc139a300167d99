"""An IRET-style model at many points, beside a ViT pruned without training and one fine-tuned through a plan.

All three start from the real ViT-Tiny and are fine-tuned on clothing10, same data and epochs (recipes/clothing_iret.py,
clothing_reduced.py, and that with all tokens). Plans are searched on the validation set; rows are what the deployed
files answer on the test set, in one process by turns, latencies as shares of the fine-tuned ViT's. Needs FOVEATE_DATA;
a training that was broken off goes on from its last checkpoint.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import Sheet, beside_dense, data_folder, told
from foveate.adapters import adapt, describe
from foveate.evaluate import Images, drop
from foveate.evaluate.answers import photographs, reference_outputs
from foveate.evaluate.judges import JUDGES
from foveate.fitting.points import measure_points
from foveate.hardware.device import default_threads
from foveate.loading.load import Loaded, load
from foveate.planners.pareto import spread
from foveate.planning import plan_candidates
from foveate.plans import Step
from foveate.profiling import profile
from foveate.target import Target
from foveate.train import Classify, Recipe, load_recipe, train

RECIPES = Path(__file__).parent.parent / "recipes"
DENSE, EVIT, IRET = "ViT/16", "EViT-style, fine-tuned", "IRET-style"
KINDS = (DENSE, EVIT, IRET)
SEARCHED_ON = 160  # photographs
AIM = 0.6  # share of the dense latency at which the three are compared


def recipe_of(kind: str) -> Recipe:
    found = load_recipe(RECIPES / ("clothing_iret.py" if kind == IRET else "clothing_reduced.py"))
    if kind != DENSE:
        return found
    return Recipe(**{n: getattr(found, n) for n in Recipe.model_fields} | {"task": Classify(smoothing=0.1)})


def folder_of(out: Path, kind: str) -> Path:
    return out / {DENSE: "clothing-vit", EVIT: "clothing-evit", IRET: "clothing-iret"}[kind]


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--fresh", action="store_true")
    args.add_argument("--runtime", default="openvino")
    args.add_argument("--precision", default="fp32")
    args.add_argument("--points", type=int, default=6, help="of each searched model, beside the whole one")
    args.add_argument("--search-seconds", type=float, default=120.0)
    args.add_argument("--seconds", type=float, default=120.0, help="of timing, over all points")
    args.add_argument("--out", type=Path, default=Path("runs"))
    args.add_argument("--train-only", action="store_true")
    a = args.parse_args()
    for kind in KINDS:
        where = folder_of(a.out, kind)
        train(recipe_of(kind), where, resumed=(where / "last.pt").exists(), progress=told())
    if a.train_only:
        return
    models = {kind: load(str(folder_of(a.out, kind))) for kind in KINDS}
    data = data_folder() / "clothing10" / "clothing10_160.zip"
    search, test = (photographs(data / split, models[DENSE], limit=None) for split in ("validation", "test"))
    sheet = Sheet("iret_frontier", fresh=a.fresh, threads=default_threads(), images=len(test), data="clothing10 test",
                  epochs=recipe_of(DENSE).epochs)  # fmt: skip
    measure(sheet, models, search, test, a)


def measure(sheet: Sheet, models: dict[str, Loaded], search: Images, test: Images, a: Any) -> None:
    vit = models[DENSE]
    x_test = test.array(vit.preprocess)
    labels = test.labels
    assert labels is not None
    judge = JUDGES["classes"](reference_outputs(vit.model, x_test), labels)
    with beside_dense(vit, a.runtime, a.precision, 1) as bench:
        kinds, at_aim = {"dense": DENSE}, dict[str, str]()
        for kind, steps, aimed in plans(models, search, a, bench.target):
            label = f"{kind} {sum(k == kind for k in kinds.values())}"
            bench.add(label, steps, module=adapt(models[kind].model, steps).eval())
            kinds[label] = kind
            if aimed:
                at_aim[kind] = label
        answers = {label: bench.outputs(label, x_test) for label in kinds}
        found = {label: judge.quality(answers[label]) for label in kinds}
        for s in measure_points(bench, "dense", list(kinds), found, describe(vit.model), seconds=a.seconds):
            facts, build = describe(models[kinds[s.label]].model), bench.builds[s.label]
            top1, ratio = s.quality.score, facts.macs_ratio(build.plan.schedule)
            assert top1 is not None
            row = {
                "kind": kinds[s.label], "runtime": a.runtime, "precision": a.precision, "batch": 1,
                "latency_ratio": s.share[0], "low": s.share[1], "high": s.share[2], "top1": top1.value,
                "top1_low": top1.low, "top1_high": top1.high, "energy_mj": s.energy.mj, "energy": s.energy.how,
                "gmacs": facts.macs(build.plan.schedule) / 1e9, "macs_ratio": ratio,
                "over_macs": s.share[0] / ratio, "rounds": len(s.latencies_ms),
                "aimed": s.label in at_aim.values(),
                "steps": [step.model_dump() for step in build.plan.steps], "versions": bench.worker.facts(),
            }  # fmt: skip
            sheet.row(f"{a.runtime} {a.precision} {s.label}", lambda row=row: row)
        for rival in (DENSE, EVIT):
            more = drop(answers[at_aim[IRET]], answers[at_aim[rival]], labels)
            row = {
                "kind": "pair", "runtime": a.runtime, "precision": a.precision, "rival": rival,
                "points": more.value, "low": more.low, "high": more.high, "p": more.tags["mcnemar_p"],
            }  # fmt: skip
            sheet.row(f"{a.runtime} {a.precision} {IRET} over {rival}", lambda row=row: row)


def plans(
    models: dict[str, Loaded], search: Images, a: Any, target: Target
) -> Iterator[tuple[str, tuple[Step, ...], bool]]:
    """(kind, steps, whether for `AIM`) of what is measured beside the dense ViT."""
    labels = None if search.labels is None else search.labels[:SEARCHED_ON]
    task: Any = recipe_of(EVIT).task
    yield EVIT, task.steps, True
    for kind in (DENSE, IRET):
        loaded = models[kind]
        if kind == IRET:
            yield kind, (), False
        table = profile(loaded.model, target).table
        few = search.array(loaded.preprocess)[:SEARCHED_ON]
        seek = partial(plan_candidates, loaded.model, few, labels, table, budget_seconds=a.search_seconds)
        for c in spread([c for c in seek(wide=True) if c.steps], a.points, lambda c: c.predicted_ms):
            yield kind, c.steps, False
        near = seek(speedup=1 / AIM)
        able = [c for c in near if c.speedup >= 1 / AIM]
        yield kind, (min(able, key=lambda c: c.loss) if able else max(near, key=lambda c: c.speedup)).steps, True


if __name__ == "__main__":
    main()

"""How far reduction moves the real ViT-Tiny's answers: mean KL to the dense model on photographs no planner saw.

Needs FOVEATE_DATA (weights/, nips17_dev/). Some of the 1,000 photographs are planned on, the others tested on. Latency
plays no part: the planner is given multiply-accumulates in its place, so plans are compared at equal arithmetic. The
reduction's own arithmetic is not counted, for any method.
"""

import argparse
from typing import Any

import numpy as np

from benchmarks.common import Sheet, data_folder, say
from foveate.evaluate import open_images
from foveate.loading.load import load
from foveate.methods import METHODS
from foveate.planners import Curve, LatencyTable
from foveate.planning import Evaluator, plan_candidates
from foveate.plans import Step
from foveate.schedule import Schedule, macs

START, DEPTH, WIDTH, PATCHES, PATCH = 197, 12, 192, 196, 16
TARGETS = (0.74, 0.59)  # where ToMe's r = 8 and r = 13 are
BLOCKS = {3: 150, 6: 112, 9: 80}
Steps = tuple[Step, ...]


def gmacs(schedule: Schedule) -> float:
    return macs(schedule, WIDTH, patches=PATCHES, patch_size=PATCH) / 1e9


def arithmetic() -> LatencyTable:
    """A latency table whose milliseconds are GMACs."""
    counts = list(range(3, START + 1))
    attention = [(4 * n * WIDTH**2 + 2 * n * n * WIDTH) / 1e9 for n in counts]
    block = [a + 8 * n * WIDTH**2 / 1e9 for a, n in zip(attention, counts, strict=True)]
    fixed = (3 * PATCH**2 * PATCHES * WIDTH + 1000 * WIDTH) / 1e9
    return LatencyTable(
        fixed_ms=fixed, block=Curve(tokens=counts, ms=block), attention=Curve(tokens=counts, ms=attention)
    )


def by(method: str, cuts: dict[int, int]) -> Steps:
    return tuple(Step(block=b, method=method, tokens=n) for b, n in cuts.items())


def interval(values: np.ndarray, seed: int) -> list[float]:
    """95 % bootstrap interval of the mean."""
    draws = np.random.default_rng(seed).integers(0, len(values), (2000, len(values)))
    return [round(float(x), 5) for x in np.percentile(values[draws].mean(1), [2.5, 97.5])]


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--evaluations", type=int, default=60, help="plans scored in each search, after sensitivities")
    args.add_argument("--planned-on", type=int, default=256, help="photographs")
    args.add_argument("--tested-on", type=int, default=744, help="photographs, others than those")
    args.add_argument("--methods", nargs="+", default=["foveal", "tome", "ppt", "topk"], help="the planner may use")
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--fresh", action="store_true")
    a = args.parse_args()
    data = data_folder()
    weights = data / "weights" / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
    loaded = load("vit_tiny_patch16_224", weights=weights)
    pictures = open_images(data / "nips17_dev" / "nips17_dev_299.zip", classes=loaded.classes or 1000)
    x, labels = pictures.array(loaded.preprocess), pictures.labels
    order = np.random.default_rng(a.seed).permutation(len(x))
    seen, unseen = order[: a.planned_on], order[a.planned_on : a.planned_on + a.tested_on]
    dense = gmacs(Schedule.full(START, DEPTH))
    sheet = Sheet(
        "vit_tiny_kl", fresh=a.fresh, model="vit_tiny_patch16_224, augreg in21k_ft_in1k", data="nips17_dev",
        planned_on=len(seen), tested_on=len(unseen), seed=a.seed, evaluations=a.evaluations, precision="fp32",
        loss="mean KL(dense || reduced), nats", intervals="95 %, bootstrap over images", level=0.95,
    )  # fmt: skip

    def planned(target: float, methods: tuple[str, ...]) -> dict[str, Any]:
        found = plan_candidates(
            loaded.model, x[seen], labels[seen], arithmetic(), latency_ms=target * dense, methods=methods,
            evaluations=a.evaluations, search_share=0.8, seed=a.seed,
            progress=lambda share, text: say(f"{share:.0%} {text}"),
        )  # fmt: skip
        best = min((c for c in found if c.macs_ratio <= target), key=lambda c: c.search_loss)
        steps = [[s.block, s.method, s.tokens] for s in best.steps]
        return {"steps": steps, "search_kl": round(best.search_loss, 5), "confirm_kl": round(best.loss, 5)}

    evaluator: list[Evaluator] = []

    def tested(steps: Steps) -> dict[str, Any]:
        if not evaluator:
            evaluator.append(Evaluator(loaded.model, x[unseen], labels[unseen]))
        score, right = evaluator[0].score(steps), evaluator[0].dense_right()
        schedule = Schedule.cut(START, DEPTH, {s.block: s.tokens for s in steps})
        lost = right - score.right
        return {
            "macs_ratio": round(gmacs(schedule) / dense, 4),
            "kl": round(float(score.distance.mean()), 5), "kl_interval": interval(score.distance, a.seed),
            "agreement": round(float((1 - score.changed).mean()), 4),
            "agreement_interval": interval(1 - score.changed, a.seed),
            "drop_points": round(100 * float(lost.mean()), 2), "drop_interval": interval(100 * lost, a.seed),
            "n": len(score.distance), "steps": len(steps),
        }  # fmt: skip

    def plan(name: str, target: float, methods: tuple[str, ...] = tuple(a.methods)) -> Steps:
        row = sheet.row(f"plan: {name}", lambda: planned(target, methods))
        return tuple(Step(block=b, method=m, tokens=n) for b, m, n in row["steps"])

    plans = {f"pareto {t}": plan(f"pareto {t}", t) for t in TARGETS}
    for r in (8, 13):
        cuts = Schedule.tome(START, DEPTH, r).cuts
        plans |= {f"{m} r={r}": by(m, cuts) for m in ("tome", "foveal")}
    plans |= {f"{m} to 150, 112, 80 after blocks 4, 7, 10": by(m, BLOCKS) for m in METHODS if METHODS[m].per_image}
    for name, steps in plans.items():
        sheet.row(name, lambda s=steps: tested(s))
    # Without our own method as well, so that planner and method can be told apart.
    for target in TARGETS:
        name = f"pareto {target}, tome and topk"
        steps = plan(name, target, ("tome", "topk"))
        sheet.row(name, lambda s=steps: tested(s))


if __name__ == "__main__":
    main()

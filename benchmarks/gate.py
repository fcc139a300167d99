"""What the budget's gate lets pass and what it refuses: plans of known loss, judged on resampled photographs.

Needs FOVEATE_DATA (weights/, nips17_dev/, imagenette10/). Plans of graded strength for the real ViT-Tiny are run once,
in float32 torch, on two sets of labelled photographs. What a plan loses on a whole set counts as the truth. Fits are
then drawn from that set with replacement, 60 % of the photographs to search on and 40 % unseen; each plan is judged by
the gate of before (points lost at most the budget on both parts) and by `judge_budget`, the other plans being its pool.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Sheet, data_folder, say
from foveate.evaluate import open_images
from foveate.evaluate.evidence import Answers, judge_budget
from foveate.loading.load import Loaded, load
from foveate.planning import Evaluator
from foveate.plans import Step

NAME = "vit_tiny_patch16_224"
WEIGHTS = "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
TOKENS, BLOCKS = 197, (3, 6, 9)
PLANS = (  # method, share of the tokens kept in each of the three blocks
    ("foveal", 0.762), ("tome", 0.762), ("topk", 0.8), ("foveal", 0.68), ("foveal", 0.84), ("ppt", 0.7), ("tome", 0.68),
    ("topk", 0.92), ("foveal", 0.92), ("tome", 0.88), ("topk", 0.86),
)  # fmt: skip
IMAGENET_INDEX = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)  # of Imagenette's classes, in order
SETS = {"nips": ("NIPS 2017 dev", 1000, len(PLANS)), "nette": ("Imagenette, 112 pixels", 400, 9)}  # photographs, plans
COUNTS = (60, 100, 200, 500, 1000)
SEARCHED, TRIES = 0.6, 4


def photographs(name: str, data: Path, loaded: Loaded, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [S 3 h w] and ImageNet's labels [S]."""
    if name == "nips":
        found = open_images(data / "nips17_dev" / "nips17_dev_299.zip", classes=loaded.classes or 1000, limit=limit)
        labels = found.labels
    else:
        found = open_images(data / "imagenette10" / "imagenette10_112.zip" / "val", classes=10, limit=limit)
        labels = None if found.labels is None else np.array(IMAGENET_INDEX)[found.labels]
    assert labels is not None
    return found.array(loaded.preprocess), labels


def collect(name: str, limit: int, plans: int, path: Path) -> None:
    """Every plan's KL, agreement and right answers, photograph by photograph, into an .npz."""
    data = data_folder()
    loaded = load(NAME, weights=data / "weights" / WEIGHTS)
    images, labels = photographs(name, data, loaded, limit)
    evaluator = Evaluator(loaded.model, images, labels, cache_bytes=3_000_000_000)
    right = evaluator.dense_right()
    assert right is not None
    kept: dict[str, np.ndarray] = {"right": right}
    for method, share in PLANS[:plans]:
        counts = {b: round(TOKENS * share ** (i + 1)) for i, b in enumerate(BLOCKS)}
        score = evaluator.score(tuple(Step(block=b, method=method, tokens=n) for b, n in counts.items()))
        assert score.right is not None
        plan = f"{method} {share:g}"
        kept |= {f"{plan}|kl": score.distance, f"{plan}|agree": score.changed == 0, f"{plan}|right": score.right}
        lost = 100 * (right.mean() - score.right.mean())
        say(f"{name} {plan}: KL {score.distance.mean():.4f}, {lost:.2f} points lost")
    np.savez(path, allow_pickle=False, **kept)


def answers(path: Path) -> dict[str, Answers]:
    """A set's plans by name, by rising loss."""
    with np.load(path) as found:
        plans = [key.removesuffix("|kl") for key in found if key.endswith("|kl")]
        read = {
            p: Answers(
                np.maximum(found[f"{p}|kl"], 0.0), (~found[f"{p}|agree"]).astype(float),
                found["right"].astype(float) - found[f"{p}|right"], nats=True,
            )
            for p in plans
        }  # fmt: skip
    return dict(sorted(read.items(), key=lambda item: float(_cost(item[1]).mean())))


def taken(a: Answers, at: np.ndarray, labelled: bool) -> Answers:
    return Answers(a.distance[at], a.changed[at], a.lost[at] if labelled and a.lost is not None else None, nats=a.nats)


def _cost(a: Answers) -> np.ndarray:
    return a.changed if a.lost is None else a.lost


def simulate(plans: dict[str, Answers], labelled: bool, count: int, budget: float, draws: int) -> dict[str, Any]:
    """How often each plan meets which end, over `draws` fits on `count` photographs; and what whole fits end with.

    A whole fit tries up to four plans, those that lose most first (they are the fastest), of those that pass on the
    search photographs, and takes the first that passes on the unseen ones.
    """
    rng, names = np.random.default_rng(0), list(plans)
    whole = [taken(a, np.arange(len(a)), labelled) for a in plans.values()]
    truth = np.array([100 * _cost(a).mean() for a in whole])
    ends = {end: np.zeros(len(names)) for end in ("old_kept", "shown", "observed", "broken", "covered")}
    fits: dict[str, list[float]] = {"old": [], "new": []}  # the true loss of the plan taken
    searched = round(SEARCHED * count)
    for _ in range(draws):
        at = rng.integers(0, len(whole[0]), count)
        search = [taken(a, at[:searched], labelled) for a in whole]
        unseen = [taken(a, at[searched:], labelled) for a in whole]
        old, new, hopeful = [], [], []
        for i in range(len(names)):
            rest = search[:i] + search[i + 1 :]
            kept = judge_budget(budget, unseen[i], search[i], rest)
            counted = [100 * _cost(part[i]).mean() <= budget for part in (search, unseen)]
            ends[kept.outcome][i] += 1
            ends["covered"][i] += kept.low <= truth[i] <= kept.high
            ends["old_kept"][i] += all(counted)
            old.append(counted)
            new.append(kept.outcome != "broken")
            hopeful.append(judge_budget(budget, search[i], None, rest).outcome != "broken")
        fits["old"] += first([c[0] for c in old], [c[1] for c in old], truth)
        fits["new"] += first(hopeful, new, truth)
    shown, beyond = ends["shown"].sum(), ends["shown"][truth > budget].sum()
    return {
        "plans": {
            n: {"lost": float(round(truth[i], 2)), **{end: round(float(v[i]) / draws, 3) for end, v in ends.items()}}
            for i, n in enumerate(names)
        },
        "shown": int(shown), "shown_beyond": int(beyond),
        "fits": {gate: about(found, budget, draws) for gate, found in fits.items()}, "draws": draws,
    }  # fmt: skip


def first(passed_search: list[bool], passed_unseen: list[bool], truth: np.ndarray) -> list[float]:
    tried = [i for i in np.argsort(-truth) if passed_search[i]][:TRIES]
    return [float(truth[i]) for i in tried if passed_unseen[i]][:1]


def about(found: list[float], budget: float, draws: int) -> dict[str, float]:
    lost = np.array(found) if found else np.array([0.0])
    return {
        "found": round(len(found) / draws, 3), "lost": round(float(lost.mean()), 3),
        "beyond": round(float((lost > budget).mean()), 3),
        "beyond_by_half": round(float((lost > 1.5 * budget).mean()), 3),
    }  # fmt: skip


def settings() -> Iterator[tuple[str, bool, int, float]]:
    """(set, with labels, photographs, budget)"""
    for count in COUNTS:
        yield "nips", True, count, 1.0
    for count in (200, 500):
        yield "nette", True, count, 1.0
        yield "nips", True, count, 0.5
        yield "nips", True, count, 2.0
        yield "nips", False, count, 3.0
    yield "nips", False, 1000, 3.0


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--draws", type=int, default=300, help="fits drawn in every setting")
    args.add_argument("--fresh", action="store_true")
    args.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "foveate-gate")
    a = args.parse_args()
    a.cache.mkdir(parents=True, exist_ok=True)
    plans = {}
    for name, (_, limit, count) in SETS.items():
        path = a.cache / f"{name}.npz"
        if not path.exists():
            collect(name, limit, count, path)
        plans[name] = answers(path)
    sets = {name: {"of": of, "photographs": limit, "plans": count} for name, (of, limit, count) in SETS.items()}
    sheet = Sheet(
        "gate", fresh=a.fresh, model=f"{NAME}, augreg in21k_ft_in1k", precision="fp32", searched=SEARCHED,
        tries=TRIES, sets=sets,
    )  # fmt: skip
    for name, labelled, count, budget in settings():
        key = f"{name} {'labels' if labelled else 'no labels'} {count} budget {budget:g}"
        sheet.row(key, lambda n=name, y=labelled, c=count, b=budget: simulate(plans[n], y, c, b, a.draws))


if __name__ == "__main__":
    main()

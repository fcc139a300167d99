"""A bench on which every build's latency and answers are known, and the values that fitting makes of it."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from foveate.evaluate.evidence import judge_budget
from foveate.evaluate.judges import JUDGES
from foveate.fitting.bench import Build, Seat, Timing
from foveate.fitting.budget import Goal
from foveate.fitting.case import Part
from foveate.fitting.trials import Trial
from foveate.planning import Candidate
from foveate.plans import ModelRef, Plan, Step
from foveate.target import Target

REF = ModelRef(name="stub", weights="random", tokens=197, depth=12, prefix=1)
CLASSES = 5
TARGET = Target(runtime="openvino", threads=1)


def logits_of(answers: np.ndarray) -> np.ndarray:
    """Confident logits [S classes] for these classes [S]."""
    return 4.0 * np.eye(CLASSES)[answers]


def truth(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CLASSES, n)


def answers_with(labels: np.ndarray, wrong: int) -> np.ndarray:
    """The labels, the first `wrong` of them changed."""
    found = labels.copy()
    found[:wrong] = (found[:wrong] + 1) % CLASSES
    return found


@dataclass
class StubBench:
    """`speeds`: ms of every label; `wrong`: how many of the first photographs a build gets wrong, as a share."""

    speeds: dict[str, float]
    wrong: dict[str, float] = field(default_factory=dict)
    target: Target = TARGET
    noise: float = 0.01
    slow_calls: dict[str, float] = field(default_factory=dict)  # share of a label's calls that take ten times as long

    def __post_init__(self) -> None:
        self.builds: dict[str, Build] = {}
        self.timed: list[tuple[tuple[str, ...], int]] = []
        self.rng = np.random.default_rng(0)
        self.worker = SimpleNamespace(facts=lambda: {"quiet": None})

    def add(self, label: str, steps: Any = (), **about: Any) -> Build:
        target = self.target.model_copy(update={"precision": about.get("precision") or self.target.precision})
        plan = Plan(model=REF, steps=tuple(steps), target=target)
        self.builds[label] = build = Build(label, plan, Path("model"), (3, 4, 4), 0.1)
        return build

    def drop(self, label: str) -> None:
        del self.builds[label]

    def time(
        self, labels: Any, rounds: int, *, warmup: int = 3, stage: str = "search", look: bool | None = None
    ) -> Timing:
        self.timed.append((tuple(labels), rounds))
        ms = np.array([[self.speeds[label]] * rounds for label in labels])
        ms = ms * np.exp(self.rng.normal(0, self.noise, ms.shape))
        for row, label in zip(ms, labels, strict=True):
            row[self.rng.random(rounds) < self.slow_calls.get(label, 0.0)] *= 10
        return Timing(tuple(labels), ms, stage)

    def outputs(self, label: str, x: np.ndarray) -> np.ndarray:
        labels = x[:, 0, 0, 0].astype(int)
        return logits_of(answers_with(labels, round(self.wrong.get(label, 0.0) * len(labels))))


def part(n: int, seed: int = 0, labelled: bool = True) -> Part:
    """Photographs whose first pixel is their class; the given model is always right."""
    labels = truth(n, seed)
    x = np.zeros((n, 3, 4, 4), np.float32)
    x[:, 0, 0, 0] = labels
    known = labels if labelled else None
    sample: Any = SimpleNamespace(x=x, labels=known, images=SimpleNamespace(names=tuple(f"{i}.jpg" for i in range(n))))
    return Part(sample, JUDGES["classes"](logits_of(labels), known))


def case(search: int = 200, unseen: int = 400) -> Any:
    facts = SimpleNamespace(outputs="classes", macs=lambda schedule: 10**9)
    loaded = SimpleNamespace(ref=REF, note=None)
    return SimpleNamespace(search=part(search), unseen=part(unseen, 1), facts=facts, loaded=loaded, model=None)


def candidate(ms: float, loss: float = 0.01, expected: float = 0.5, tokens: int = 120) -> Candidate:
    step = Step(block=3, method="topk", tokens=tokens)
    rest = dict.fromkeys(("speedup", "macs_ratio", "loss_low", "loss_high", "agreement", "search_loss"), 0.0)
    return Candidate(steps=(step,), predicted_ms=ms, loss=loss, expected_drop=expected, drop=expected, images=1, **rest)


def trial(bench: StubBench, label: str, found: Any, goal: Goal, *, share: float | None = None, **about: Any) -> Trial:
    """A trial as `run_trial` makes it, of a build that the bench knows."""
    made = candidate(bench.speeds[label], **about)
    build = bench.add(label, made.steps)
    look = found.search.look(bench.outputs(label, found.search.x))
    share = bench.speeds[label] / bench.speeds["dense"] if share is None else share
    kept = judge_budget(goal.points, look.answers)
    return Trial(made, Seat(bench, label), build, share, look, kept)  # type: ignore[arg-type]

"""POMT's planner on a real model: its utility over the measured curve and over the accuracy of single cuts."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import nn

from foveate.errors import InputError
from foveate.facts import Outputs
from foveate.planners import LatencyTable
from foveate.planners.pomt import choose, cut_block
from foveate.planning.candidate import Candidate, judge
from foveate.planning.evaluator import Evaluator, chunk_of
from foveate.planning.start import default_counts
from foveate.plans import Step


def plan_pomt(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray | None,
    table: LatencyTable,
    *,
    methods: Sequence[str] | None = None,
    outputs: Outputs | None = None,
    alpha: float = 0.5,
    cache_bytes: int = 500_000_000,
    progress: Callable[[float, str], None] | None = None,
) -> list[Candidate]:
    """The one cut that POMT chooses, or nothing where it would keep all tokens. For comparison; see `plan_candidates`.

    Accuracy is the share of right answers or, without labels, of the dense model's. POMT looks at every count; here at
    those worth landing on, which its utility would choose among. Unlike `plan_candidates` it reports the images that it
    chose by, as POMT does.

    Args:
        methods: the reducer; at most one, default "pomt".
        outputs: the kind of output; None: what the model's facts say.
        alpha: weight of latency in the utility, 0 to 1.

    Raises:
        InputError: for an alpha outside [0, 1], several methods, or no images.
    """
    if methods is not None and len(methods) != 1:
        raise InputError(f"POMT's planner takes one method; got {', '.join(methods)}")
    evaluator = Evaluator(model, images, labels, outputs=outputs, chunk=chunk_of(images), cache_bytes=cache_bytes)
    f, method = evaluator.facts, "pomt" if methods is None else methods[0]
    right = evaluator.dense_right()
    grid, ms = [f.tokens], [table.predict(f.cut(()), {})]
    accuracy = [1.0 if right is None else float(right.mean())]
    counts = default_counts(table, f.tokens, f.prefix)
    for i, n in enumerate(reversed(counts)):
        step = Step(block=cut_block(f.depth), method=method, tokens=n)
        if progress:
            progress(i / len(counts), f"{method} to {n} tokens")
        seen = evaluator.score((step,))
        grid.append(n)
        ms.append(table.predict(f.cut((step,)), {step.block: method}))
        accuracy.append(float((1 - seen.changed if seen.right is None else seen.right).mean()))
    best = choose(grid, ms, accuracy, alpha=alpha)
    if best == f.tokens:
        return []
    steps = (Step(block=cut_block(f.depth), method=method, tokens=best),)
    chunks = range(evaluator.chunks)
    loss = float(evaluator.score(steps).distance.mean())
    return [judge(evaluator, steps, chunks, ms=ms[grid.index(best)], dense_ms=ms[0], search_loss=loss)]

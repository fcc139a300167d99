"""Energy of one image through a build: read off counters where there are any, else from operations and bytes."""

from dataclasses import replace

import numpy as np

from foveate.fitting.bench import Bench, Build
from foveate.hardware.energy import Energy, find_meters, measure, modelled

METERED_SECONDS = 3.0  # where there is a counter of energy
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


def energy_of(bench: Bench, build: Build, macs: int) -> Energy:
    """Weights are taken to come from DRAM once a call; tokens, a few hundred kilobytes, to stay in the caches.

    Args:
        macs: multiply-accumulates of one image.
    """
    target = build.plan.target
    meters, _ = find_meters(target.device)
    if meters:
        x = np.zeros((target.batch, *build.image), np.float32)
        found = measure(lambda: bench.outputs(build.label, x), meters, seconds=METERED_SECONDS)
        return replace(found, mj=found.mj / target.batch, idle_mj=(found.idle_mj or 0.0) / target.batch)
    moved = sum(p.numel() for p in bench.model.parameters()) * BYTES[target.precision] / target.batch
    return modelled(macs, moved, target.precision)

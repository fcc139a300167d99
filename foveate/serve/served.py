"""The folder behind a server: every operating point's file loaded and run once before the first request."""

import re
from typing import Any

import numpy as np

from foveate.artefact import Artefact
from foveate.elastic import Deadline, Demand, Fixed
from foveate.errors import InputError
from foveate.evaluate.judges.showing import check_shape
from foveate.runtimes import RUNTIMES
from foveate.serve.protocol import Spec
from foveate.serve.settings import Settings


class Served:
    """A model for `Batcher`, and what the protocol and the metrics say of it."""

    def __init__(self, settings: Settings, *, load: bool = True, own_process: bool = False) -> None:
        """
        Args:
            load: False only checks the options against the folder (a server whose workers will load it).
            own_process: this process holds no other models of the runtime, so its pool of threads may be set.

        Raises:
            InputError: where the folder is missing or damaged, or lacks what the options ask for.
        """
        if not settings.folder.is_dir():
            raise InputError(f"{settings.folder} is not a folder; allowed: one that foveate fit or export wrote")
        if own_process:
            prepare(settings)
        chosen: dict[str, Any] = {} if settings.device is None else {"device": settings.device}
        self.artefact = artefact = Artefact(settings.folder, threads=settings.threads, trust=settings.trust, **chosen)
        self.frontier = frontier = artefact.frontier
        points = 1 if frontier is None else len(frontier)
        if frontier is None and settings.slo_ms is not None:
            raise InputError(
                f"--slo-ms {settings.slo_ms:g}: {settings.folder} has no operating points to choose from; "
                f"foveate fit --points 6 makes them"
            )
        if settings.point is not None and not 0 <= settings.point < points:
            raise InputError(f"--point is {settings.point}; allowed: 0 to {points - 1}")
        self.points = range(points) if settings.slo_ms is not None else (settings.point or 0,)
        self.policy = Fixed(settings.point or 0) if settings.slo_ms is None else Deadline(settings.slo_ms)
        self.batch = artefact.plan.target.batch
        self.name = settings.name or re.sub(r"[^A-Za-z0-9._-]", "_", artefact.plan.model.name)[:128]
        self.spec: Spec | None = None
        if load:
            self._warm(settings.queue)

    def _warm(self, queue: int) -> None:
        size, channels = self.artefact.preprocess.size, self.artefact.preprocess.channels
        kind, labels, gallery = self.artefact.outputs, self.artefact.classes, self.artefact.gallery
        shapes = set()
        for point in self.points:
            found = self.call(np.zeros((self.batch, channels, *size), dtype=np.float32), point)
            shapes.add(found.shape[1:])
        try:
            if len(shapes) > 1:
                raise InputError(f"operating points answer with {sorted(shapes)}; allowed: one shape")
            shape = shapes.pop()
            check_shape(kind, (self.batch, *shape), labels)
            if gallery is not None:
                gallery.nearest(np.zeros(shape, np.float32), 1)
        except InputError as e:
            raise InputError(f"{self.artefact.folder}: {e}") from None
        self.spec = Spec(self.name, size, kind, shape, labels, queue, channels)

    def call(self, images: np.ndarray, point: int) -> np.ndarray:
        """[n 3 h w] float32, n up to the batch -> outputs [n ...]."""
        return self.artefact(images, at=None if self.frontier is None else point)

    def choose(self, demand: Demand) -> int:
        return 0 if self.frontier is None else self.policy.choose(self.frontier, demand)

    @property
    def latencies(self) -> tuple[float, ...]:
        return () if self.frontier is None else tuple(p.latency_ms for p in self.frontier.points)

    def tokens(self, point: int) -> int:
        """Tokens that one image's pass has after its blocks, summed over the blocks."""
        return sum(self.artefact.plan.schedule.after if self.frontier is None else self.frontier.points[point].tokens)

    def energy_mj(self, point: int) -> float | None:
        return None if self.frontier is None else self.frontier.points[point].energy_mj


def prepare(settings: Settings) -> None:
    """One pool of threads for all operating points: those of a second pool would spin while the first one works."""
    from foveate.hardware.device import default_threads
    from foveate.plans import Plan

    plan = Plan.load(settings.folder)
    if plan.target.runtime in RUNTIMES and RUNTIMES[plan.target.runtime].why_not(plan.target.precision) is None:
        RUNTIMES[plan.target.runtime].serve(settings.threads or plan.target.threads or default_threads())

"""What Prometheus reads at /metrics, in a registry of its own."""

import time
from collections.abc import Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from foveate.serve.batcher import Batcher
from foveate.serve.served import Served

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TYPE = CONTENT_TYPE_LATEST


class Named:
    """A metric whose first label is the model, which those who count need not name."""

    def __init__(self, metric: Any, model: str) -> None:
        self._metric, self._model = metric, model

    def labels(self, *values: object) -> Any:
        return self._metric.labels(self._model, *values)


class Metrics:
    """Counters of one process; with several workers each has its own."""

    def __init__(self, served: Served) -> None:
        self._served, self.model = served, served.name
        self.last_call = 0.0  # seconds since the epoch
        self.registry = r = CollectorRegistry()
        count = lambda name, text, *labels: Named(Counter(name, text, ["model", *labels], registry=r), self.model)
        times = lambda name, text, *labels: Named(
            Histogram(name, text, ["model", *labels], buckets=SECONDS, registry=r), self.model
        )
        self.requests = count("foveate_requests", "requests by status", "route", "status")
        self.request_seconds = times("foveate_request_seconds", "whole time of a request", "route")
        self.call_seconds = times("foveate_call_seconds", "time of a model call", "point")
        self.wait_seconds = times("foveate_wait_seconds", "time an image waited for its call").labels()
        self.images = count("foveate_images", "images answered", "point")
        self.tokens = count("foveate_tokens", "tokens after every block, summed over blocks and images").labels()
        self.energy = count("foveate_energy_millijoules", "as the frontier has it, for the images answered", "origin")
        self.refused = count("foveate_refused", "requests refused for lack of room", "reason")
        self.disconnected = count("foveate_disconnected", "requests whose client left first").labels()

    def watch(self, batcher: Batcher) -> None:
        """Gauges that are read when they are asked for."""
        for name, text, read in (
            ("foveate_queue_images", "images that wait", lambda: batcher.depth),
            ("foveate_operating_point", "of the last call; 0 is the whole model", lambda: batcher.point),
            ("foveate_slowdown", "calls lately over their measured latency", lambda: batcher.slowdown),
        ):
            Gauge(name, text, ["model"], registry=self.registry).labels(self.model).set_function(read)

    def called(self, point: int, waited: Sequence[float], seconds: float) -> None:
        """After every model call, from its thread; `waited`: seconds, of each of its images."""
        images = len(waited)
        for each in waited:
            self.wait_seconds.observe(each)
        self.last_call = time.time()
        self.call_seconds.labels(point).observe(seconds)
        self.images.labels(point).inc(images)
        self.tokens.inc(images * self._served.tokens(point))
        energy, frontier = self._served.energy_mj(point), self._served.frontier
        if energy is not None and frontier is not None:
            self.energy.labels(frontier.energy).inc(images * energy)

    def total(self, name: str, **labels: str) -> float:
        """A counter's value, summed over all labels that are not given."""
        samples = (s for family in self.registry.collect() for s in family.samples if s.name == name)
        return sum(s.value for s in samples if all(s.labels.get(key) == value for key, value in labels.items()))

    def text(self) -> bytes:
        return generate_latest(self.registry)

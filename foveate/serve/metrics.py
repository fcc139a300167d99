"""What Prometheus reads at /metrics, in a registry of its own."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from foveate.serve.batcher import Batcher
from foveate.serve.served import Served

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counters of one process; with several workers each has its own."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self.registry = r = CollectorRegistry()
        self.requests = Counter("foveate_requests", "requests by status", ["route", "status"], registry=r)
        self.request_seconds = Histogram(
            "foveate_request_seconds", "whole time of a request", ["route"], buckets=SECONDS, registry=r
        )
        self.call_seconds = Histogram(
            "foveate_call_seconds", "time of a model call", ["point"], buckets=SECONDS, registry=r
        )
        self.images = Counter("foveate_images", "images answered", ["point"], registry=r)
        self.tokens = Counter("foveate_tokens", "tokens after every block, summed over blocks and images", registry=r)
        self.energy = Counter(
            "foveate_energy_millijoules", "as the frontier has it, for the images answered", ["origin"], registry=r
        )
        self.refused = Counter("foveate_refused", "requests refused for lack of room", ["reason"], registry=r)
        self.disconnected = Counter("foveate_disconnected", "requests whose client left first", registry=r)

    def watch(self, batcher: Batcher) -> None:
        """Gauges that are read when they are asked for."""
        for name, text, read in (
            ("foveate_queue_images", "images that wait", lambda: batcher.depth),
            ("foveate_operating_point", "of the last call; 0 is the whole model", lambda: batcher.point),
            ("foveate_slowdown", "calls lately over their measured latency", lambda: batcher.slowdown),
        ):
            Gauge(name, text, registry=self.registry).set_function(read)

    def called(self, point: int, images: int, seconds: float) -> None:
        """After every model call, from its thread."""
        self.call_seconds.labels(point).observe(seconds)
        self.images.labels(point).inc(images)
        self.tokens.inc(images * self._served.tokens(point))
        energy, frontier = self._served.energy_mj(point), self._served.frontier
        if energy is not None and frontier is not None:
            self.energy.labels(frontier.energy).inc(images * energy)

    def text(self) -> bytes:
        return generate_latest(self.registry)

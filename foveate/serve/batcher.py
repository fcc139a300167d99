"""The bounded queue before the model, and the one thread that calls it. No HTTP in here.

Before every call the thread asks for an operating point, with what those who wait have waited and how much slower than
measured calls have been lately.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from foveate.elastic import Demand

SMOOTHING = 0.2  # weight of the last call in `slowdown`: one that was interrupted moves no operating point


class Full(Exception):
    """No room in the queue."""


class Closed(Exception):
    """Shutting down."""


class ModelFailed(Exception):
    """The model raised; its message is one line."""


@dataclass(frozen=True)
class Answer:
    """outputs [n ...]; points: of every image; latency_ms: of the calls they were in; queue_ms: the longest that one of
    them waited for its call."""

    outputs: np.ndarray
    points: tuple[int, ...]
    latency_ms: float
    queue_ms: float

    @property
    def point(self) -> int:
        """The fastest that one of the images got."""
        return max(self.points)


@dataclass(eq=False)
class Job:
    """A request's images under way; `future` ends with an `Answer`, or raises `ModelFailed`."""

    since: float
    rows: dict[int, tuple[np.ndarray, int]]  # by image, as far as they are there: output and operating point
    left: int
    future: "Future[Answer]" = field(default_factory=Future)
    seconds: float = 0.0
    waited: float = 0.0  # seconds, the longest of its images


@dataclass(frozen=True, eq=False)
class _Ticket:
    job: Job
    row: int
    image: np.ndarray
    queued: float


class Batcher:
    """Takes up to `batch` images a call, and waits at most `batch_ms` after the first for more.

    Args:
        call: (images [n 3 h w], operating point) -> outputs [n ...].
        choose: the operating point for a demand.
        latencies: ms of a call at every operating point as measured, for `slowdown`; none: it stays 1.
        queue: images that may wait; past it `submit` raises Full.
        seen: told of every call: (operating point, seconds that each of its images waited, seconds of the call).
    """

    def __init__(
        self, call: Callable[[np.ndarray, int], np.ndarray], choose: Callable[[Demand], int], *, batch: int = 1,
        queue: int = 256, batch_ms: float = 0.0, latencies: Sequence[float] = (),
        seen: Callable[[int, Sequence[float], float], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._call, self._choose, self._seen, self._clock = call, choose, seen, clock
        self._batch, self._queue, self._batch_s, self._latencies = batch, queue, batch_ms / 1e3, tuple(latencies)
        self._waiting: deque[_Ticket] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.slowdown = 1.0
        self.point = 0  # of the last call
        # A daemon: a call that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def depth(self) -> int:
        return len(self._waiting)

    def room(self, images: int) -> bool:
        return len(self._waiting) + images <= self._queue

    def submit(self, images: Sequence[np.ndarray], since: float | None = None) -> Job:
        """Queue the images [3 h w] of one request, which came at `since` by the clock (now, by default).

        Raises:
            Full: all or none are taken; Closed: after `close`.
        """
        now = self._clock()
        job = Job(now if since is None else since, {}, len(images))
        with self._changed:
            if self._closed:
                raise Closed
            if not self.room(len(images)):
                raise Full
            self._waiting.extend(_Ticket(job, i, image, now) for i, image in enumerate(images))
            self._changed.notify()
        return job

    def drop(self, job: Job) -> int:
        """Take a request that nobody waits for any more out of the queue; how many of its images were still in it."""
        with self._changed:
            before = len(self._waiting)
            self._waiting = deque(t for t in self._waiting if t.job is not job)
            return before - len(self._waiting)

    def close(self) -> None:
        """Take nothing more; what is queued is still answered."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def join(self, timeout: float) -> bool:
        """Wait for the queue's end after `close`; False where it did not come in time."""
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _take(self) -> tuple[list[_Ticket], list[float]] | None:
        """The next call's images, and how long everyone who waits has waited, in ms, the oldest first."""
        with self._changed:
            while True:
                while not self._waiting:
                    if self._closed:
                        return None
                    self._changed.wait()
                until = self._waiting[0].queued + self._batch_s
                while 0 < len(self._waiting) < self._batch and not self._closed:
                    if (rest := until - self._clock()) <= 0:
                        break
                    self._changed.wait(rest)
                if self._waiting:  # not all dropped meanwhile
                    break
            now = self._clock()
            waited = [1e3 * (now - t.job.since) for t in self._waiting]
            return [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))], waited

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            tickets, waited = taken
            try:
                point = self._choose(Demand(waited, self.slowdown))
                began = self._clock()
                for t in tickets:
                    t.job.waited = max(t.job.waited, began - t.queued)
                outputs = self._call(np.stack([t.image for t in tickets]), point)
                seconds = self._clock() - began
                if len(outputs) != len(tickets):
                    raise ValueError(f"{len(tickets)} images in, {len(outputs)} rows out")
            except Exception as e:  # whatever a runtime raises, the server goes on
                self._fail(tickets, ModelFailed(f"the model failed: {' '.join(str(e).split()) or type(e).__name__}"))
                continue
            self.point = point
            if self._latencies:
                self.slowdown += SMOOTHING * (1e3 * seconds / self._latencies[point] - self.slowdown)
            self._seen(point, [began - t.queued for t in tickets], seconds)
            self._give(tickets, outputs, point, seconds)

    def _give(self, tickets: list[_Ticket], outputs: np.ndarray, point: int, seconds: float) -> None:
        for job in dict.fromkeys(t.job for t in tickets):
            job.seconds += seconds
        for ticket, row in zip(tickets, outputs, strict=True):
            job = ticket.job
            job.rows[ticket.row], job.left = (row, point), job.left - 1
            if job.left == 0 and job.future.set_running_or_notify_cancel():
                rows, points = zip(*(job.rows[i] for i in sorted(job.rows)), strict=True)
                if np.isfinite(whole := np.stack(rows)).all():
                    job.future.set_result(Answer(whole, points, 1e3 * job.seconds, 1e3 * job.waited))
                else:
                    job.future.set_exception(ModelFailed("the model failed: its output is not finite"))

    def _fail(self, tickets: list[_Ticket], error: ModelFailed) -> None:
        for job in dict.fromkeys(t.job for t in tickets):
            self.drop(job)
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)

"""The queue before the model: bounded, in order, answered to the end; and the knob that its length turns."""

import threading

import numpy as np
import pytest

from foveate.elastic import Deadline, Demand, Frontier, Point
from foveate.plans import Step
from foveate.serve.batcher import Batcher, Closed, Full, ModelFailed
from foveate.target import Target

WAIT = 30  # seconds after which a test gives up; none is near it


def frontier(batch: int = 1) -> Frontier:
    """Points of 10, 6 and 2 ms."""
    points = tuple(
        Point(
            steps=(Step(block=1, method="tome", tokens=9),) if i else (), file="x", tokens=(9,), gmacs=1,
            latency_ms=ms, p99_ms=ms, share=ms / 10, share_low=ms / 10, share_high=ms / 10, quality=90 - i,
            quality_low=80, quality_high=95, energy_mj=ms,
        )
        for i, ms in enumerate((10, 6, 2))
    )  # fmt: skip
    return Frontier(
        target=Target(runtime="onnxruntime", batch=batch, threads=1), figure="top-1", images=9, energy="modelled",
        energy_source="a test", points=points,
    )  # fmt: skip


class Model:
    """Answers [number of the image, point]; by its own clock a call takes the frontier's time, times `slow`."""

    def __init__(self, batch: int = 1, slow: float = 1.0) -> None:
        self.frontier, self.slow, self.now = frontier(batch), slow, 0.0
        self.calls: list[tuple[int, int]] = []  # point, images

    def clock(self) -> float:
        return self.now

    def __call__(self, images: np.ndarray, point: int) -> np.ndarray:
        self.calls.append((point, len(images)))
        self.now += self.frontier.points[point].latency_ms * self.slow / 1e3
        numbers = images.reshape(len(images), -1)[:, 0]
        if (numbers == -1).any():
            raise RuntimeError("a bad\nnumber")
        numbers = np.where(numbers == -2, np.nan, numbers)
        return np.stack([numbers, np.full(len(images), point)], axis=1)

    def batcher(self, slo_ms: float | None = None, **options) -> Batcher:
        policy = Deadline(slo_ms) if slo_ms else None

        def choose(demand: Demand) -> int:
            return policy.choose(self.frontier, demand) if policy else 0

        latencies = [p.latency_ms for p in self.frontier.points]
        return Batcher(
            self,
            choose,
            **{"batch": self.frontier.target.batch, "clock": self.clock, "latencies": latencies, **options},
        )

    @property
    def points(self) -> list[int]:
        return [point for point, _ in self.calls]


def numbered(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32).reshape(-1, 1, 1, 1)


def answered(job) -> list[float]:
    return job.future.result(WAIT).outputs[:, 0].tolist()


def ended(batcher: Batcher) -> None:
    batcher.close()
    assert batcher.join(WAIT)


def test_calls_take_up_to_a_batch_and_every_request_gets_its_own_rows_in_order():
    model = Model(batch=4)
    batcher = model.batcher()
    jobs = [batcher.submit(numbered(0, 1, 2)), batcher.submit(numbered(3)), batcher.submit(numbered(4, 5, 6, 7, 8))]
    batcher.start()
    ended(batcher)
    assert [answered(j) for j in jobs] == [[0, 1, 2], [3], [4, 5, 6, 7, 8]]
    assert [n for _, n in model.calls] == [4, 4, 1]


def test_a_call_waits_for_its_batch_to_fill_and_no_longer():
    model = Model(batch=3)
    batcher = model.batcher(batch_ms=3_600_000)
    batcher.start()
    jobs = [batcher.submit(numbered(i)) for i in range(6)]  # one by one, yet two calls of three
    assert [answered(j) for j in jobs] == [[i] for i in range(6)]
    assert model.calls == [(0, 3), (0, 3)]
    last = batcher.submit(numbered(6))
    ended(batcher)  # nobody else will come
    assert answered(last) == [6]


def test_one_image_alone_is_answered_when_the_time_for_more_is_over():
    import time

    batcher = Model(batch=3).batcher(batch_ms=1, clock=time.monotonic)
    batcher.start()
    assert answered(batcher.submit(numbered(5))) == [5]
    ended(batcher)


def test_past_the_bound_nothing_of_a_request_is_taken():
    batcher = Model().batcher(queue=3)
    first = batcher.submit(numbered(0, 1))
    with pytest.raises(Full):
        batcher.submit(numbered(2, 3))
    assert batcher.depth == 2
    second = batcher.submit(numbered(4))
    batcher.start()
    ended(batcher)
    assert (answered(first), answered(second)) == ([0, 1], [4])


def test_under_load_the_knob_slides_along_the_frontier_and_comes_back():
    model = Model()
    batcher = model.batcher(slo_ms=100)
    first = [batcher.submit(numbered(i)) for i in range(30)]  # 30 x 2 ms fit into 80, 30 x 6 do not
    batcher.start()
    for job in first:
        job.future.result(WAIT)
    assert model.points[0] == 2
    assert model.points == sorted(model.points, reverse=True)
    assert set(model.points) == {1, 2}, "it came back as the queue fell"
    assert 1e3 * model.now <= 100, "everyone was answered within the objective"
    last = batcher.submit(numbered(99))
    assert last.future.result(WAIT).point == 0
    ended(batcher)
    assert [answered(j) for j in first] == [[i] for i in range(30)], "nobody was dropped"


def test_a_fixed_point_stays_under_the_same_load():
    model = Model()
    batcher = model.batcher()
    for i in range(30):
        batcher.submit(numbered(i))
    batcher.start()
    ended(batcher)
    assert set(model.points) == {0}


def test_a_machine_that_has_become_slow_turns_the_knob_and_one_that_recovers_turns_it_back():
    model = Model(slow=5)
    batcher = model.batcher(slo_ms=25)  # 20 ms are planned with; the whole model takes 10, or now 50
    batcher.start()

    def one_by_one(n: int) -> list[int]:
        return [batcher.submit(numbered(i), since=model.now).future.result(WAIT).point for i in range(n)]

    slow = one_by_one(30)
    assert slow[0] == 0
    assert set(slow[15:]) == {2}
    assert batcher.slowdown == pytest.approx(5, rel=0.1)
    model.slow = 1
    assert one_by_one(30)[-1] == 0
    ended(batcher)


def test_one_slow_call_does_not_turn_the_knob():
    model = Model(slow=4)
    batcher = model.batcher(slo_ms=25)
    batcher.start()
    batcher.submit(numbered(0), since=model.now).future.result(WAIT)
    model.slow = 1
    assert batcher.submit(numbered(1), since=model.now).future.result(WAIT).point == 0
    ended(batcher)


def test_what_was_waited_before_the_queue_counts():
    model = Model()
    batcher = model.batcher(slo_ms=25)
    model.now = 1.0
    batcher.start()
    assert batcher.submit(numbered(0), since=0.985).future.result(WAIT).point == 2
    ended(batcher)


@pytest.mark.parametrize(
    ("number", "line"), [(-1, "the model failed: a bad number"), (-2, "the model failed: its output is not finite")]
)
def test_a_call_that_fails_fails_its_own_requests_and_the_next_is_answered(number, line):
    batcher = Model(batch=2).batcher()
    bad = batcher.submit(numbered(1, 2, number, 3, 4, 5))
    good = batcher.submit(numbered(6, 7))
    batcher.start()
    with pytest.raises(ModelFailed, match=line):
        bad.future.result(WAIT)
    assert answered(good) == [6, 7]
    ended(batcher)


def test_a_runtime_that_returns_another_number_of_rows_fails_only_that_call():
    model = Model(batch=2)
    wrong = [True]
    batcher = Batcher(lambda x, p: np.zeros((9, 2)) if wrong.pop() else model(x, p), lambda _: 0, batch=2)
    wrong.insert(0, False)
    bad, good = batcher.submit(numbered(1, 2)), batcher.submit(numbered(3, 4))
    batcher.start()
    with pytest.raises(ModelFailed, match="2 images in, 9 rows out"):
        bad.future.result(WAIT)
    assert answered(good) == [3, 4]
    ended(batcher)


def test_who_has_gone_is_not_computed():
    model = Model()
    batcher = model.batcher()
    gone, stays = batcher.submit(numbered(0, 1)), batcher.submit(numbered(2))
    assert batcher.drop(gone) == 2
    assert batcher.depth == 1
    batcher.start()
    assert answered(stays) == [2]
    ended(batcher)
    assert len(model.calls) == 1


def test_who_leaves_during_the_call_costs_the_thread_nothing():
    model, entered, go = Model(), threading.Event(), threading.Event()

    def call(images: np.ndarray, point: int) -> np.ndarray:
        entered.set()
        assert go.wait(WAIT)
        return model(images, point)

    batcher = Batcher(call, lambda _: 0)
    batcher.start()
    gone = batcher.submit(numbered(0))
    assert entered.wait(WAIT)
    assert batcher.drop(gone) == 0
    gone.future.cancel()
    go.set()
    assert answered(batcher.submit(numbered(1))) == [1]
    ended(batcher)


def test_after_closing_the_queue_is_answered_and_nothing_more_is_taken():
    batcher = Model().batcher()
    jobs = [batcher.submit(numbered(i)) for i in range(20)]
    batcher.close()
    with pytest.raises(Closed):
        batcher.submit(numbered(20))
    batcher.start()
    assert batcher.join(WAIT)
    assert [answered(j) for j in jobs] == [[i] for i in range(20)]

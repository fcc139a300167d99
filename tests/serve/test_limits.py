"""Past a limit a clear refusal, and who was accepted is answered: bodies, the queue, failures, shutting down."""

import asyncio
import json
import threading
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from support.asked import photo, refused, tensor
from support.served import INFER, expected, images

from foveate.serve.served import Served


async def trickle(*parts: bytes, pause: float = 0.0):
    for part in parts:
        await asyncio.sleep(pause)
        yield part


@pytest.mark.parametrize("claimed", [None, "5", str(2**40), "9" * 40])
def test_a_body_past_the_limit_is_refused_whatever_it_says_of_itself(ask, claimed):
    headers = {} if claimed is None else {"content-length": claimed}
    body = trickle(*(bytes(1000) for _ in range(200)))
    refused(ask("POST", "/classify", {"max_body_mb": 0.1}, content=body, headers=headers), 413, "104857")


def test_a_refused_body_is_not_kept(run):
    async def work(client, app):
        await client.post("/classify", content=bytes(200_000))
        await client.post("/classify", content=bytes(50_000))
        return app.state.service.bodies.held

    assert run(work, max_body_mb=0.1) == 0


def test_a_body_that_trickles_is_given_up(ask):
    body = trickle(*(b"a" for _ in range(100)), pause=0.05)
    answer = ask("POST", "/classify", {"receive_s": 0.1}, content=body)
    refused(answer, 408, "0.1 s")
    assert answer.headers["connection"] == "close"


class Held(Served):
    """Every call after the first ones, which warm up, waits until it may."""

    def __init__(self, settings):
        self.free, self.entered = threading.Event(), threading.Event()
        self.free.set()
        super().__init__(settings)
        self.free.clear()
        self.entered.clear()

    def call(self, images, point):
        self.entered.set()
        assert self.free.wait(30)
        return super().call(images, point)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def test_past_the_queue_is_a_clear_refusal_and_who_was_accepted_is_answered(run):
    x = images(1)

    async def work(client, app):
        service = app.state.service
        post = lambda: asyncio.create_task(client.post(INFER, json={"inputs": [tensor(x)]}))
        first = post()
        await until(service.served.entered.is_set)
        waiting = [post() for _ in range(6)]
        await until(lambda: service.batcher.depth == 6)
        answers = [await post(), await client.post("/classify", content=photo())]
        metrics = (await client.get("/metrics")).text
        service.served.free.set()
        return answers, [await t for t in (first, *waiting)], metrics

    late, accepted, metrics = run(work, model=Held, queue=6, batch_ms=0)
    for answer in late:
        refused(answer, 503, "6 images wait")
        assert answer.headers["retry-after"] == "1"
    for answer in accepted:
        np.testing.assert_allclose(answer.json()["outputs"][0]["data"], expected(x, 0)[0], atol=1e-4)
    assert 'foveate_refused_total{model="tiny",reason="queue"} 2.0' in metrics
    assert 'foveate_queue_images{model="tiny"} 6.0' in metrics


def test_more_images_than_could_ever_wait_are_refused_for_good(ask):
    refused(ask("POST", INFER, {"queue": 4}, json={"inputs": [tensor(images(5))]}), 400, "n from 1 to 4")


def test_more_requests_under_way_than_allowed_are_refused_before_their_bodies(run):
    async def work(client, app):
        service = app.state.service
        go = asyncio.Event()

        async def body():
            await go.wait()
            yield photo()

        tasks = [asyncio.create_task(client.post("/classify", content=body())) for _ in range(65)]
        await until(lambda: service.state.active == 65)
        late = await client.post("/classify", content=photo())
        health = await client.get("/v2/health/ready")
        go.set()
        return late, health, [await t for t in tasks]

    late, health, answers = run(work, queue=1)
    refused(late, 503, "65 requests are under way")
    assert health.status_code == 200
    assert {a.status_code for a in answers} <= {200, 503}
    assert any(a.status_code == 200 for a in answers)


def test_memory_for_bodies_is_bounded_for_all_together(run):
    async def work(client, app):
        app.state.service.bodies.total = 1000
        go = asyncio.Event()

        async def body():
            yield bytes(700)
            await go.wait()

        first = asyncio.create_task(client.post("/classify", content=body()))
        await until(lambda: app.state.service.bodies.held == 700)
        second = await client.post("/classify", content=bytes(400))
        go.set()
        return second, await first

    second, first = run(work)
    refused(second, 503, "no memory")
    refused(first, 400, "not an image")


def test_who_has_gone_leaves_the_queue_and_is_counted(run):
    x = images(1)
    body = json.dumps({"inputs": [tensor(x)]}).encode()

    async def work(client, app):
        service = app.state.service
        first = asyncio.create_task(client.post(INFER, json={"inputs": [tensor(x)]}))
        await until(service.served.entered.is_set)
        gone, sent = asyncio.Event(), []

        async def receive():
            if not sent:
                sent.append(True)
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            raise AssertionError("nobody is there to be answered")

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": INFER,
            "raw_path": INFER.encode(), "query_string": b"", "headers": [], "scheme": "http", "root_path": "",
            "client": ("127.0.0.1", 1), "server": ("here", 80), "state": {},
        }  # fmt: skip
        task = asyncio.create_task(app(scope, receive, send))
        await until(lambda: service.batcher.depth == 1)
        gone.set()
        await task
        depth = service.batcher.depth
        service.served.free.set()
        await first
        return depth, (await client.get("/metrics")).text

    depth, metrics = run(work, model=Held)
    assert depth == 0
    assert 'foveate_disconnected_total{model="tiny"} 1.0' in metrics
    assert 'foveate_images_total{model="tiny",point="0"} 1.0' in metrics


class Failing(Served):
    broken = False

    def call(self, images, point):
        if self.broken:
            raise RuntimeError("out of\nmemory")
        return super().call(images, point)


def test_a_model_that_fails_is_one_line_and_the_server_goes_on(run):
    async def work(client, app):
        post = lambda: client.post(INFER, json={"inputs": [tensor(images(1))]})
        app.state.service.served.broken = True
        bad = await post()
        app.state.service.served.broken = False
        return bad, await post()

    bad, good = run(work, model=Failing)
    refused(bad, 500, "the model failed: out of memory")
    assert good.status_code == 200


def test_a_bug_of_ours_is_one_line_too(run, monkeypatch, caplog):
    monkeypatch.setattr("foveate.serve.photos.shown", lambda *_: 1 / 0)
    answer = run(lambda client, _: client.post("/classify", content=photo()))
    refused(answer, 500, "the server failed", answer.headers["x-request-id"])


def test_while_it_drains_nothing_new_is_taken_and_readiness_says_so(run):
    async def work(client, app):
        service = app.state.service
        first = asyncio.create_task(client.post("/classify", content=photo()))
        await until(service.served.entered.is_set)
        service.state.draining = True
        late = await client.post("/classify", content=photo())
        ready, live = await client.get("/v2/health/ready"), await client.get("/v2/health/live")
        service.served.free.set()
        return late, ready, live, await first

    late, ready, live, first = run(work, model=Held)
    refused(late, 503, "shutting down")
    assert late.headers["connection"] == "close"
    assert (ready.status_code, ready.json()) == (503, {"ready": False})
    assert live.status_code == 200
    assert first.status_code == 200


def packed(data, wbits=31):
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(("encoding", "wbits"), [("gzip", 31), ("deflate", 15), ("GZIP", 31)])
def test_a_packed_photograph_is_unpacked(ask, encoding, wbits):
    plain = ask("POST", "/classify", content=photo()).json()
    answer = ask("POST", "/classify", content=packed(photo(), wbits), headers={"content-encoding": encoding})
    assert answer.status_code == 200 and answer.json()["top"] == plain["top"]


WHOLE = packed(b"\0" * 10**8)  # a hundred kilobytes that become a hundred megabytes


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (WHOLE, 413, "at most 1048576"),
        (packed(photo())[:-9], 400, "ends too early"),
        (packed(photo()) + b"more", 400, "behind its end"),
        (b"not packed", 400, "is damaged"),
        (b"", 400, "ends too early"),
    ],
)
def test_packed_bodies_keep_to_the_limits(run, body, status, words):
    async def work(client, app):
        answer = await client.post("/classify", content=body, headers={"content-encoding": "gzip"})
        refused(answer, status, words)
        return app.state.service.bodies.held

    assert run(work, max_body_mb=1) == 0


def test_what_is_not_unpacked_says_what_is(ask):
    answer = ask("POST", "/classify", content=b"x", headers={"content-encoding": "zstd"})
    refused(answer, 415, "zstd")
    assert answer.headers["accept-encoding"] == "identity, gzip, deflate"


@pytest.mark.parametrize("length", [256, 257, 5000])
def test_a_long_boundary_is_the_clients_mistake(ask, length):
    line = "b" * length
    content = f'--{line}\r\ncontent-disposition: form-data; name="file"\r\n\r\n'.encode() + photo()
    content += f"\r\n--{line}--\r\n".encode()
    answer = ask(
        "POST", "/classify", content=content, headers={"content-type": f"multipart/form-data; boundary={line}"}
    )
    assert answer.status_code == (200 if length <= 256 else 400)

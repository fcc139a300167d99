"""The server in this process: protocol, upload, limits, token, metrics. Real sockets: test_server.py."""

import asyncio
import base64
import io
import json
import struct
import threading
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from support.images import write_odd
from support.served import CLASSES, PREPROCESS, expected, images, make_folder

from foveate.errors import InputError
from foveate.serve import Settings
from foveate.serve.app import create_app
from foveate.serve.served import Served

INFER = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("served"))


@pytest.fixture
def run(folder):
    """`run(work, **settings)`: what `work(client, app)` returns, with an application that lives meanwhile."""

    def run(work: Callable[[httpx.AsyncClient, Any], Awaitable[Any]], model=Served, **options: object) -> Any:
        async def main() -> Any:
            settings = Settings(folder=folder, **options)
            app = create_app(model(settings), settings)
            transport = httpx.ASGITransport(app)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://here", timeout=30) as client,
            ):
                return await work(client, app)

        return asyncio.run(main())

    return run


@pytest.fixture
def ask(run):
    """`ask(method, path, settings={}, **request)`: one answer."""

    def ask(method: str, path: str, settings: dict[str, Any] | None = None, **request: Any) -> httpx.Response:
        return run(lambda client, _: client.request(method, path, **request), **(settings or {}))

    return ask


def tensor(x: np.ndarray, **more: object) -> dict[str, Any]:
    return {"name": "image", "shape": list(x.shape), "datatype": "FP32", "data": x.tolist()} | more


def photo(size: tuple[int, int] = (64, 48), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims that size, and which is well formed up to its pixels."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def refused(answer: httpx.Response, status: int, *words: str) -> None:
    """The status, and one line of JSON that holds `words`."""
    assert answer.status_code == status, answer.text
    line = answer.json()["error"]
    assert "\n" not in line
    for word in words:
        assert word in line, line


# The protocol


def test_health_and_metadata(run):
    async def work(client, _):
        for path in (
            "/v2/health/live",
            "/v2/health/ready",
            "/v2/models/tiny/ready",
            "/v2/models/tiny/versions/1/ready",
        ):
            assert (await client.get(path)).status_code == 200
        assert (await client.get("/v2")).json()["extensions"] == ["binary_tensor_data", "classification"]
        metadata = (await client.get("/v2/models/tiny")).json()
        assert metadata == (await client.get("/v2/models/tiny/versions/1")).json()
        return metadata

    metadata = run(work)
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("tiny", ["1"], "foveate_onnxruntime")
    assert metadata["inputs"][0] == {"name": "image", "datatype": "FP32", "shape": [-1, 3, 32, 32]}
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 5]}]
    assert metadata["parameters"]["preprocess"] == PREPROCESS.model_dump(mode="json")
    assert len(metadata["parameters"]["operating_points"]) == 3


@pytest.mark.parametrize("rows", [1, 4, 11])
def test_predictions_are_the_models_row_by_row(ask, rows):
    x = images(rows)
    answer = ask("POST", INFER, json={"id": "mine", "inputs": [tensor(x)]}).json()
    assert (answer["id"], answer["model_name"], answer["outputs"][0]["shape"]) == ("mine", "tiny", [rows, 5])
    got = np.array(answer["outputs"][0]["data"]).reshape(rows, 5)
    np.testing.assert_allclose(got, expected(x, 0), atol=1e-4)
    assert answer["parameters"]["operating_point"] == 0
    assert answer["parameters"]["latency_ms"] > 0


def test_many_at_once_get_each_its_own_answer(run):
    x = images(40)

    async def work(client, _):
        one = lambda i: client.post(INFER, json={"id": str(i), "inputs": [tensor(x[i : i + 1])]})
        return await asyncio.gather(*map(one, range(40)))

    for i, answer in enumerate(run(work)):
        assert answer.json()["id"] == str(i)
        np.testing.assert_allclose(answer.json()["outputs"][0]["data"], expected(x[i : i + 1], 0)[0], atol=1e-4)


@pytest.mark.parametrize("point", [0, 1, 2])
def test_a_point_can_be_fixed(ask, point):
    x = images(2)
    answer = ask("POST", INFER, {"point": point}, json={"inputs": [tensor(x)]}).json()
    np.testing.assert_allclose(np.array(answer["outputs"][0]["data"]).reshape(2, 5), expected(x, point), atol=1e-4)
    assert answer["parameters"]["operating_point"] == point


def test_photographs_are_preprocessed_as_the_folder_says(ask):
    data = photo()
    x = PREPROCESS(Image.open(io.BytesIO(data)))[None]
    given = {"name": "photo", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(data).decode()]}
    answer = ask("POST", INFER, json={"inputs": [given]}).json()
    np.testing.assert_allclose(answer["outputs"][0]["data"], expected(x, 0)[0], atol=1e-4)


@pytest.mark.parametrize("path", ["/v2/models/other", "/v2/models/tiny/versions/2", "/v2/models/other/ready"])
def test_an_unknown_model_or_version_is_named(ask, path):
    refused(ask("GET", path), 404, "unknown", "known")
    if not path.endswith("ready"):
        refused(ask("POST", f"{path}/infer", json={"inputs": [tensor(images(1))]}), 404, "unknown")


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"content": b"{"}, 400, ("not JSON",)),
        ({"content": b""}, 400, ("not JSON",)),
        ({"json": {"inputs": [tensor(images(1), datatype="FP64")]}}, 400, ("datatype", "FP64")),
        ({"json": {"inputs": [tensor(images(1), shape=[1, 3, 16, 64])]}}, 400, ("shape", "[n, 3, 32, 32]")),
        ({"json": {"inputs": [tensor(images(1), data=[1])]}}, 400, ("1 values",)),
        ({"content": b"{}", "headers": {"Inference-Header-Content-Length": "many"}}, 400, ("content-length",)),
        ({"content": b"{}", "headers": {"Inference-Header-Content-Length": "-1"}}, 400, ("content-length",)),
        ({"content": b"{}", "headers": {"content-type": "text/html"}}, 415, ("text/html", "application/json")),
        ({"content": b"{}", "headers": {"content-encoding": "gzip"}}, 415, ("gzip", "identity")),
    ],
)
def test_wrong_requests_get_the_right_status_and_one_line(ask, request_, status, words):
    answer = ask("POST", INFER, **request_)
    refused(answer, status)
    assert all(word in answer.json()["error"].lower() or word in answer.json()["error"] for word in words)


def test_unknown_paths_and_methods(ask):
    refused(ask("GET", "/nowhere"), 404)
    answer = ask("DELETE", "/classify")
    refused(answer, 405)
    assert answer.headers["allow"] == "POST"


# Upload


@pytest.mark.parametrize("way", ["image/png", "application/octet-stream", "", "form"])
def test_a_photograph_is_classified(ask, way):
    data = photo()
    if way == "form":
        request: dict[str, Any] = {"files": {"other": ("a", b"a"), "file": ("a.png", data, "image/png")}}
    else:
        request = {"content": data, "headers": {"content-type": way} if way else {}}
    answer = ask("POST", "/classify?k=3", **request)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    logits = expected(PREPROCESS(Image.open(io.BytesIO(data)))[None], 0)[0]
    shares = np.exp(logits) / np.exp(logits).sum()
    assert [t["class"] for t in found["top"]] == [CLASSES[i] for i in np.argsort(-logits)[:3]]
    assert [t["share"] for t in found["top"]] == pytest.approx(sorted(shares, reverse=True)[:3], abs=1e-4)
    assert found["operating_point"] == 0
    assert found["id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("content", "kind", "status", "words"),
    [
        (b"", "image/png", 400, ("empty",)),
        (b"no image at all", "image/png", 400, ("not an image",)),
        (photo()[:-200], "image/png", 400, ("truncated",)),
        (photo(kind="JPEG")[:300], "image/jpeg", 400, ("truncated",)),
        (bomb(50_000, 50_000), "image/png", 413, ("too many pixels", "50,000,000")),
        (bomb(8_000, 8_000), "image/png", 413, ("8000x8000", "50,000,000")),
        (bomb(400_000, 400_000), "image/png", 413, ("pixels",)),
        (photo((60, 4)), "image/png", 400, ("60x4", "8 px")),
        (photo(), "text/plain", 415, ("text/plain",)),
        (b"a", "multipart/form-data", 400, ("boundary",)),
        (b"a", "multipart/form-data; boundary=x", 400, ("damaged",)),
        (b"--x\r\n\r\na\r\n", "multipart/form-data; boundary=x", 400, ("last boundary",)),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\na\r\n--x--\r\n', "multipart/form-data; boundary=x",
            400, ("0 fields named file",),
        ),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else str(v) if isinstance(v, int) else "",
)  # fmt: skip
def test_what_is_no_photograph_is_refused(ask, content, kind, status, words):
    refused(ask("POST", "/classify", content=content, headers={"content-type": kind}), status, *words)


@pytest.mark.parametrize("kind", ["alpha", "grey16", "rotated"])
def test_odd_photographs_are_read(ask, tmp_path, kind):
    data = write_odd(kind, tmp_path).read_bytes()
    assert ask("POST", "/classify", content=data).status_code == 200


@pytest.mark.parametrize("k", ["0", "6", "many"])
def test_k_is_within_the_classes(ask, k):
    refused(ask("POST", f"/classify?k={k}", content=photo()), 400, "query.k")


def test_pixels_are_limited_before_they_are_decoded(ask):
    small = {"max_megapixels": 0.003}
    refused(ask("POST", "/classify", small, content=photo((64, 48))), 413, "64x48", "3,000")
    assert ask("POST", "/classify", small, content=photo((60, 50))).status_code == 200


# Limits


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
    assert 'foveate_refused_total{reason="queue"} 2.0' in metrics
    assert "foveate_queue_images 6.0" in metrics


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
    assert "foveate_disconnected_total 1.0" in metrics
    assert 'foveate_images_total{point="0"} 1.0' in metrics


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
    monkeypatch.setattr("foveate.serve.app.top", lambda *_: 1 / 0)
    answer = run(lambda client, _: client.post("/classify", content=photo()))
    refused(answer, 500, "the server failed", answer.headers["x-request-id"])


# Token, ids, metrics, shutting down


def test_the_token_guards_all_but_health(run):
    async def work(client, _):
        paths = ("/v2", "/v2/models/tiny", "/metrics", "/openapi.json", "/nowhere")
        for value in (None, "Bearer wrong", "Bearer sesamé", "Basic sesame", "sesame", "Bearer sesame2", "Bearer "):
            headers = {} if value is None else {"authorization": value.encode("latin-1")}
            for path in paths:
                answer = await client.get(path, headers=headers)
                refused(answer, 401, "Authorization: Bearer")
                assert answer.headers["www-authenticate"] == "Bearer"
            refused(await client.post("/classify", content=photo(), headers=headers), 401)
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready"):
            assert (await client.get(path)).status_code == 200
        good = {"authorization": "Bearer sesame"}
        assert (await client.post("/classify", content=photo(), headers=good)).status_code == 200
        return (await client.get("/openapi.json", headers=good)).json()

    described = run(work, token="sesame")
    assert described["paths"]["/classify"]["post"]["security"] == [{"bearer": []}]
    assert described["paths"]["/v2/health/live"]["get"]["security"] == []


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1.2:3", True), ("", False), ("a b", False), ("x" * 129, False), ("a\tb", False)]
)
def test_a_sane_request_id_is_kept_and_another_replaced(ask, caplog, given, kept):
    import logging

    with caplog.at_level(logging.INFO, "foveate.serve"):
        answer = ask("POST", "/classify", content=photo(), headers={"x-request-id": given})
    got = answer.headers["x-request-id"]
    assert (got == given) is kept
    assert got
    facts = next(r.facts for r in caplog.records if r.getMessage() == "request")
    assert (facts["id"], facts["path"], facts["status"], facts["operating_point"]) == (got, "/classify", 200, 0)
    assert facts["ms"] >= facts["model_ms"] > 0


def test_metrics_count_what_was_done(run):
    async def work(client, _):
        await client.post(INFER, json={"inputs": [tensor(images(3))]})
        await client.post("/classify", content=photo())
        await client.post("/classify", content=b"none")
        for i in range(5):
            await client.get(f"/made/up/{i}")
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in answer.text.splitlines()
                if not line.startswith("#")}  # fmt: skip

    found = run(work, point=1)
    assert found['foveate_requests_total{route="/classify",status="200"}'] == 1
    assert found['foveate_requests_total{route="/classify",status="400"}'] == 1
    assert found['foveate_requests_total{route="other",status="404"}'] == 5, "paths make no labels"
    assert found['foveate_request_seconds_count{route="/v2/models/{name}/infer"}'] == 1
    assert found['foveate_images_total{point="1"}'] == 4
    assert found["foveate_tokens_total"] == 4 * 3 * 10
    assert found['foveate_energy_millijoules_total{origin="modelled"}'] == 4 * 6
    assert found["foveate_operating_point"] == 1
    assert found["foveate_queue_images"] == 0


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


# Folders and options


def test_a_folder_without_points_is_served_whole(tmp_path, run):
    plain = make_folder(tmp_path / "plain", elastic=False)
    served = Served(Settings(folder=plain))
    assert served.frontier is None and served.latencies == ()
    assert served.tokens(0) == 3 * 17 and served.energy_mj(0) is None
    np.testing.assert_allclose(served.call(images(2), 0), expected(images(2), 0), atol=1e-4)
    with pytest.raises(InputError, match=r"--slo-ms 50: .*no operating points.*foveate fit --points 6 makes them"):
        Served(Settings(folder=plain, slo_ms=50))
    with pytest.raises(InputError, match="--point is 1; allowed: 0 to 0"):
        Served(Settings(folder=plain, point=1))


def test_a_damaged_folder_is_one_line(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        Served(Settings(folder=tmp_path / "none"))
    for file, words in (
        ("plan.json", "plan.json is not a plan"), ("frontier.json", "is not a frontier"),
        ("model.json", "model.json is damaged"), ("preprocess.json", "preprocess.json"),
    ):  # fmt: skip
        damaged = make_folder(tmp_path / file)
        (damaged / file).write_text("{")
        with pytest.raises(InputError, match=words):
            Served(Settings(folder=damaged))
    lacking = make_folder(tmp_path / "lacking")
    (lacking / "points/2/model.onnx").unlink()
    Served(Settings(folder=lacking))  # of which only the whole model is asked
    with pytest.raises(InputError, match=r"lacks its model file points/2/model.onnx"):
        Served(Settings(folder=lacking, slo_ms=50))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slo_ms": 5, "point": 0}, "give one, not both"),
        ({"slo_ms": 0}, "--slo-ms is 0; allowed: above 0"),
        ({"slo_ms": float("nan")}, "--slo-ms is nan"),
        ({"port": 70000}, "--port is 70000; allowed: 0 to 65535"),
        ({"queue": 0}, "--queue is 0"),
        ({"max_body_mb": -1}, "--max-body-mb is -1"),
        ({"workers": 0}, "--workers is 0"),
        ({"name": "a/b"}, "--name is 'a/b'"),
        ({"log_level": "loud"}, "unknown --log-level 'loud'; known: debug"),
        ({"token": "two words"}, "--token holds"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        Settings(folder=tmp_path, **options)


def test_workers_get_the_settings_through_the_environment_and_the_token_apart(tmp_path, monkeypatch):
    import os

    monkeypatch.setenv("FOVEATE_SERVE", "")
    monkeypatch.setenv("FOVEATE_TOKEN", "")
    settings = Settings(folder=tmp_path, slo_ms=50, token="sesame", queue=7)
    settings.to_environment()
    assert "sesame" not in os.environ["FOVEATE_SERVE"]
    assert Settings.from_environment() == settings

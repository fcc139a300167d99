"""A server in this process: protocol, token, ids, metrics. On real sockets: test_clients.py and test_server.py."""

import asyncio
import base64
import io

import numpy as np
import pytest
from PIL import Image
from support.asked import photo, refused, tensor
from support.served import INFER, PREPROCESS, expected, images

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
        extensions = (await client.get("/v2")).json()["extensions"]
        assert extensions[:2] == ["binary_tensor_data", "classification"]
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
        ({"content": b"{}", "headers": {"content-encoding": "br"}}, 415, ("br", "identity, gzip, deflate")),
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


# Token, ids, metrics


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
        for good in ("bearer sesame", "BEARER  sesame"):  # the scheme is case-insensitive (RFC 9110)
            assert (await client.get("/v2", headers={"authorization": good})).status_code == 200
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
    assert found['foveate_requests_total{model="tiny",route="/classify",status="200"}'] == 1
    assert found['foveate_requests_total{model="tiny",route="/classify",status="400"}'] == 1
    assert found['foveate_requests_total{model="tiny",route="other",status="404"}'] == 5, "paths make no labels"
    assert found['foveate_request_seconds_count{model="tiny",route="/v2/models/{name}/infer"}'] == 1
    assert found['foveate_images_total{model="tiny",point="1"}'] == 4
    assert found['foveate_tokens_total{model="tiny"}'] == 4 * 3 * 10
    assert found['foveate_energy_millijoules_total{model="tiny",origin="modelled"}'] == 4 * 6
    assert found['foveate_operating_point{model="tiny"}'] == 1
    assert found['foveate_queue_images{model="tiny"}'] == 0
    assert found['foveate_wait_seconds_count{model="tiny"}'] == 4

"""A server in a process of its own, and who comes to its socket: others' clients, bad ones, a second server."""

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from support.served import (
    CLASSES,
    INFER,
    Server,
    alive,
    binary,
    expected,
    images,
    make_folder,
    not_started,
    running,
    serve,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("served"))
    with running(folder, tmp_path_factory.mktemp("log") / "log", "--slo-ms", 10_000, "--receive-s", 2) as server:
        yield server
        assert server.process.poll() is None, "it outlived its tests"


def said(raw: bytes) -> tuple[int, bytes]:
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def sent(server: Server, *parts: bytes, pause: float = 0.0) -> bytes:
    """All that comes back on a connection of its own, until it is closed."""
    with socket.create_connection(server.address, timeout=30) as s:
        for part in parts:
            s.sendall(part)
            time.sleep(pause)
        found = b""
        while more := s.recv(65536):
            found += more
    return found


# Clients that nobody here wrote


@pytest.fixture
def triton(server):
    http = pytest.importorskip("tritonclient.http")
    with http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield http, client


def test_tritonclient_gets_health_and_metadata(triton):
    _, client = triton
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("tiny") and client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("tiny")
    assert metadata["inputs"][0] == {"name": "image", "datatype": "FP32", "shape": [-1, 3, 32, 32]}
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, len(CLASSES)]}]


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_tritonclient_gets_predictions(triton, binary_in, binary_out):
    http, client = triton
    x = images(6)
    given = http.InferInput("image", list(x.shape), "FP32")
    given.set_data_from_numpy(x, binary_data=binary_in)
    wanted = http.InferRequestedOutput("logits", binary_data=binary_out)
    result = client.infer("tiny", [given], outputs=[wanted], request_id="mine")
    np.testing.assert_allclose(result.as_numpy("logits"), expected(x, 0), atol=1e-4)
    assert result.get_response()["id"] == "mine"
    assert result.get_response()["parameters"]["operating_point"] == 0


@pytest.mark.parametrize("binary_out", [False, True])
def test_tritonclient_gets_classes_of_photographs(triton, photos, binary_out):
    http, client = triton
    files = np.array([p.read_bytes() for p in photos[:2]], dtype=np.object_)
    given = http.InferInput("photo", [2], "BYTES")
    given.set_data_from_numpy(files, binary_data=True)
    wanted = http.InferRequestedOutput("logits", binary_data=binary_out, class_count=3)
    found = client.infer("tiny", [given], outputs=[wanted]).as_numpy("logits")
    assert found.shape == (2, 3)
    names = [text.decode() if isinstance(text, bytes) else text for text in found[0]]
    assert all(name.split(":")[2] in CLASSES for name in names)


def test_tritonclient_is_told_what_is_wrong(triton):
    from tritonclient.utils import InferenceServerException

    http, client = triton
    given = http.InferInput("image", [1, 3, 8, 8], "FP32")
    given.set_data_from_numpy(np.zeros((1, 3, 8, 8), dtype=np.float32))
    with pytest.raises(InferenceServerException, match=r"allowed: FP32 \[n, 3, 32, 32\]"):
        client.infer("tiny", [given])
    with pytest.raises(InferenceServerException, match="unknown model"):
        client.get_model_config("other")


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_tritonclient_may_pack_what_it_sends(triton, algorithm):
    http, client = triton
    x = images(3)
    given = http.InferInput("image", list(x.shape), "FP32")
    given.set_data_from_numpy(x, binary_data=True)
    result = client.infer("tiny", [given], request_compression_algorithm=algorithm)
    np.testing.assert_allclose(result.as_numpy("logits"), expected(x, 0), atol=1e-4)


def test_tritonclient_gets_configuration_statistics_and_the_list_of_models(triton):
    http, client = triton
    config = client.get_model_config("tiny")
    assert (config["name"], config["platform"], config["max_batch_size"]) == ("tiny", "foveate_onnxruntime", 256)
    assert config["input"][0] == {"name": "image", "data_type": "TYPE_FP32", "dims": [3, 32, 32], "optional": True}
    assert client.get_model_config("tiny", "1") == config
    assert client.get_model_repository_index() == [{"name": "tiny", "version": "1", "state": "READY", "reason": ""}]
    before = client.get_inference_statistics("tiny")["model_stats"][0]
    given = http.InferInput("image", [4, 3, 32, 32], "FP32")
    given.set_data_from_numpy(images(4))
    client.infer("tiny", [given])
    after = client.get_inference_statistics()["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 4
    assert after["execution_count"] > before["execution_count"] and after["last_inference"] > 1.7e12
    success = [stats["inference_stats"]["success"] for stats in (before, after)]
    assert success[1]["count"] == success[0]["count"] + 1 and success[1]["ns"] > success[0]["ns"]


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready", "/metrics"])
def test_a_balancers_head_is_a_get_without_a_body(server, path):
    said_of = {}
    for method in ("HEAD", "GET"):
        connection = HTTPConnection(server.url.removeprefix("http://"), timeout=30)
        connection.request(method, path)
        answer = connection.getresponse()
        said_of[method] = answer.status, answer.getheader("content-type"), answer.read()
        connection.close()
    assert said_of["HEAD"][:2] == said_of["GET"][:2] and said_of["HEAD"][0] == 200 and said_of["HEAD"][2] == b""


def test_a_photograph_by_curl(server, photos):
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    photo = Path(photos[0])
    done = subprocess.run(
        ["curl", "-s", "--max-time", "30", "--data-binary", f"@{photo}", server.url + "/classify?k=2"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [t["class"] in CLASSES for t in json.loads(done.stdout)["top"]] == [True, True]


# Bad clients; after each the server still answers

POST = b"POST /classify HTTP/1.1\r\nHost: here\r\n"


@pytest.mark.parametrize(
    ("parts", "status", "words"),
    [
        ((b"\x16\x03\x01 not http\r\n\r\n",), 400, b"Invalid HTTP"),
        ((b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"a" * 20_000,), 400, b"Invalid HTTP"),
        ((POST + b"Content-Length: nine\r\n\r\n",), 400, b"Invalid HTTP"),
        ((POST + b"Content-Length: 100\r\nExpect: 100-continue\r\nContent-Encoding: br\r\n\r\n",), 415, b"br"),
    ],
)
def test_a_bad_client_gets_a_status_and_a_line(server, parts, status, words):
    got, body = said(sent(server, *parts))
    assert got == status
    assert words in body
    alive(server)


def test_slow_clients_are_cut_off_and_hold_up_nobody(server):
    slow = {
        "nothing": ((), None),
        "half a head": ((b"GET /v2/health/live HT",), None),
        "half a body": ((POST + b"Content-Length: 100\r\n\r\n", b"a"), (408, b"longer than 2 s")),
        "half a stream": ((POST + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n"), (408, b"longer than 2 s")),
        "too large": ((POST + b"Content-Length: 100000000\r\n\r\n", b"a" * 99), (413, b"at most 33554432")),
    }
    got: dict[str, bytes] = {}
    threads = [
        threading.Thread(target=lambda k=k, parts=parts: got.update({k: sent(server, *parts)}))
        for k, (parts, _) in slow.items()
    ]
    for t in threads:
        t.start()
    alive(server)
    for t in threads:
        t.join(60)
    for kind, (_, wanted) in slow.items():
        if wanted is None:
            assert got[kind] == b"", kind
        else:
            status, body = said(got[kind])
            assert status == wanted[0], kind
            assert wanted[1] in body, kind
    alive(server)


@pytest.mark.parametrize("where", ["head", "body", "answer"])
def test_a_client_that_breaks_off_harms_nobody(server, where):
    body, headers = binary(images(16))
    head = f"POST {INFER} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n"
    whole = (head + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n").encode() + body
    end = {"head": 30, "body": len(whole) // 2, "answer": len(whole)}[where]
    for _ in range(5):
        with socket.create_connection(server.address, timeout=30) as s:
            s.sendall(whole[:end])
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not a farewell
    alive(server)


def test_the_log_is_json_lines_with_ids(server):
    request = urllib.request.Request(server.url + "/v2", headers={"x-request-id": "find-me"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["x-request-id"] == "find-me"
    found = server.logged(id="find-me")
    assert len(found) == 1
    assert found[0].items() >= {"event": "request", "method": "GET", "path": "/v2", "status": 200}.items()


# A second server on its port


def test_a_port_that_is_taken_is_named(server, tmp_path):
    not_started(serve(make_folder(tmp_path / "served"), "--port", server.address[1]), str(server.address[1]), "in use")

"""A server in a process of its own, and clients on real sockets: others' clients, bad ones, too many, and SIGTERM."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np
import pytest
from support.served import CLASSES, Server, expected, images, make_folder, running

INFER = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("served"))
    with running(folder, tmp_path_factory.mktemp("log") / "log", "--slo-ms", 10_000, "--receive-s", 2) as server:
        yield server
        assert server.process.poll() is None, "it outlived its tests"


def binary(x: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """A request with binary tensors both ways, and its headers."""
    tensor = {"name": "image", "shape": list(x.shape), "datatype": "FP32"}
    text = json.dumps({
        "inputs": [tensor | {"parameters": {"binary_data_size": x.nbytes}}], "parameters": {"binary_data_output": True}
    }).encode()  # fmt: skip
    return text + x.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


def logits(status: int, headers, body: bytes) -> np.ndarray:
    assert status == 200, body
    return np.frombuffer(body[int(headers["Inference-Header-Content-Length"]) :], "<f4").reshape(-1, len(CLASSES))


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


def alive(server: Server) -> None:
    x = images(2)
    with contextlib.closing(HTTPConnection(*server.address, timeout=30)) as connection:
        connection.request("POST", INFER, *binary(x))
        answer = connection.getresponse()
        np.testing.assert_allclose(logits(answer.status, answer.headers, answer.read()), expected(x, 0), atol=1e-4)


# A client that nobody here wrote


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
    with pytest.raises(InferenceServerException, match="gzip"):
        client.infer("tiny", [given], request_compression_algorithm="gzip")


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
    found = [line for line in server.lines() if line.get("id") == "find-me"]
    assert len(found) == 1
    assert found[0].items() >= {"event": "request", "method": "GET", "path": "/v2", "status": 200}.items()


# Too many


def storm(server: Server, clients: int, seconds: float) -> tuple[dict[object, int], int]:
    """`clients` connections at once, each one request; (answers by status, or by error; the most memory, in bytes)."""
    import psutil

    body, headers = binary(images(1))
    head = f"POST {INFER} HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    whole = (head + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n").encode() + body
    code = """
import asyncio, collections, json, sys
host, port, clients, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
whole = sys.stdin.buffer.read()
async def one():
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(whole)
        answer = await reader.read()
        writer.close()
        return int(answer.split()[1]) if answer else "nothing"
    except OSError as e:
        return type(e).__name__
async def main():
    tasks = [asyncio.create_task(one()) for _ in range(clients)]
    done, late = await asyncio.wait(tasks, timeout=seconds)
    found = collections.Counter(str(t.result()) for t in done)
    found["late"] += len(late)
    print(json.dumps(found))
    for t in late:
        t.cancel()
asyncio.run(main())
"""
    command = [sys.executable, "-c", code, server.address[0], str(server.address[1]), str(clients), str(seconds)]
    most, process = 0, psutil.Process(server.process.pid)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None and client.stdout is not None
        client.stdin.write(whole)
        client.stdin.close()
        while client.poll() is None:
            most = max(most, process.memory_info().rss)
            time.sleep(0.05)
        return json.loads(client.stdout.read()), most


def test_hundreds_at_once_get_an_answer_or_a_clear_refusal(tmp_path):
    with running(make_folder(tmp_path / "served"), tmp_path / "log", "--queue", 8) as server:
        found, _ = storm(server, 400, 60)
        assert found.pop("late") == 0
        assert set(found) <= {"200", "503"}
        assert found["200"] >= 8
        assert sum(found.values()) == 400
        alive(server)


@pytest.mark.slow
def test_ten_thousand_at_once_get_an_answer_or_a_clear_refusal_in_bounded_memory(tmp_path):
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 11_000:
        pytest.skip(f"this system allows {hard} open files; the client needs 11,000")
    with running(make_folder(tmp_path / "served"), tmp_path / "log") as server:
        alive(server)
        import psutil

        before = psutil.Process(server.process.pid).memory_info().rss
        found, most = storm(server, 10_000, 300)
        print(found, f"{before / 2**20:.0f} -> {most / 2**20:.0f} MiB")
        assert found.pop("late") == 0
        assert set(found) <= {"200", "503"}
        assert found["200"] >= 256
        assert most - before < 400 * 2**20
        alive(server)


# The end


def test_sigterm_under_load_loses_no_accepted_request(tmp_path):
    """Clients keep it busy; each that it accepted, by its log, has its right answer, before and after the signal."""
    folder = make_folder(tmp_path / "served", slow=4)
    got: dict[str, np.ndarray] = {}
    refused: list[str] = []
    x = images(24)
    with running(folder, tmp_path / "log", "--queue", 4096, "--log-level", "debug") as server:
        over = threading.Event()

        def client(number: int) -> None:
            count = 0
            while not over.is_set():
                connection = HTTPConnection(*server.address, timeout=60)
                try:
                    while not over.is_set():
                        name, count = f"{number}-{count}", count + 1
                        rows = x[count % 8 : count % 8 + 16]
                        body, headers = binary(rows)
                        connection.request("POST", INFER, body, headers | {"x-request-id": name})
                        answer = connection.getresponse()
                        content = answer.read()
                        if answer.status == 503:
                            refused.append(name)
                            assert b"shutting down" in content
                            break
                        found = logits(answer.status, answer.headers, content)
                        np.testing.assert_allclose(found, expected(rows, 0), atol=1e-4)
                        got[name] = found
                except (OSError, HTTPException):
                    over.wait(0.01)  # its door is closed, or it closed this connection: nothing of it was accepted
                finally:
                    connection.close()

        threads = [threading.Thread(target=client, args=(i,)) for i in range(8)]
        for t in threads:
            t.start()
        while len(got) < 8:
            assert all(t.is_alive() for t in threads)
            time.sleep(0.01)
        before = len(got)
        code = server.end(signal.SIGTERM)
        over.set()
        for t in threads:
            t.join(60)
        accepted = {line["id"] for line in server.lines() if line["event"] == "accepted" and line["path"] == INFER}
        lines = server.lines()
    assert code == 0
    assert accepted == set(got)
    assert len(got) > before, "some were under way"
    assert not [line for line in lines if line["level"] == "error"]


def test_a_signal_the_moment_it_is_ready_ends_it_with_0(tmp_path):
    with running(make_folder(tmp_path / "served"), tmp_path / "log", "--host", "0.0.0.0") as server:
        assert server.end() == 0
        log = server.log.read_text()
    assert "0.0.0.0 can be reached from outside, and there is no token" in log
    assert "Traceback" not in log


def test_a_folder_that_goes_away_is_served_on_until_ctrl_c(tmp_path):
    folder = make_folder(tmp_path / "served")
    with running(folder, tmp_path / "log", "--slo-ms", 10_000) as server:
        (folder / "model.onnx").write_bytes(b"")
        (folder / "plan.json").write_text("{")
        alive(server)
        shutil.rmtree(folder)
        alive(server)
        with socket.create_connection(server.address, timeout=30) as idle:
            assert server.end(signal.SIGINT) == 0
            assert idle.recv(1) == b""
        assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_two_workers_serve_and_end_together(tmp_path):
    import psutil

    folder = make_folder(tmp_path / "served")
    options = ("--workers", 2, "--host", "0.0.0.0")
    with running(folder, tmp_path / "log", *options, env={"FOVEATE_TOKEN": "sesame"}) as server:
        assert "no token" not in server.log.read_text()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            server.get("/v2")
        assert server.get("/v2/health/ready") == b'{"ready":true}'
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert len(children) >= 2
        assert server.end() == 0
        psutil.wait_procs(children, timeout=10)
        assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]


# What does not start


def serve(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "foveate", "serve", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"COLUMNS": "300"})


def not_started(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error"), done.stderr
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "nowhere is not a folder"),
        (("--slo-ms", "50", "--point", "0"), "give one, not both"),
        (("--queue", "0"), "--queue is 0; allowed: 1 to 65536"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_2(options, words, monkeypatch, capsys):
    from foveate.cli import main

    monkeypatch.setattr(sys, "argv", ["foveate", "serve", "nowhere", *options])
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as stopped:
            main()
    finally:
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr()
    not_started(subprocess.CompletedProcess([], int(stopped.value.code or 0), said.out, said.err), words)


def test_a_port_that_is_taken_is_named(server, tmp_path):
    not_started(serve(make_folder(tmp_path / "served"), "--port", server.address[1]), str(server.address[1]), "in use")


@pytest.mark.slow
def test_a_worker_that_cannot_start_ends_the_server(tmp_path):
    folder = make_folder(tmp_path / "served")
    (folder / "points/1/model.onnx").write_bytes(b"no graph")
    done = serve(folder, "--port", 0, "--slo-ms", 50, "--workers", 2)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    from foveate.errors import NotAvailable
    from foveate.serve import Settings
    from foveate.serve import serve as run

    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(NotAvailable, match=r"serving needs FastAPI: pip install 'foveate\[serve\]'"):
        run(Settings(folder=tmp_path), say=print, ready=print)


def test_a_photograph_by_curl(server, photos):
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    photo = Path(photos[0])
    done = subprocess.run(
        ["curl", "-s", "--max-time", "30", "--data-binary", f"@{photo}", server.url + "/classify?k=2"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [t["class"] in CLASSES for t in json.loads(done.stdout)["top"]] == [True, True]

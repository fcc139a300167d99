"""What a client may hold and for how long: heads, answers it does not take, the connections themselves."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPResponse

import numpy as np
import pytest
from support.served import INFER, binary, images, make_folder, running

from foveate.serve import connection

LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Of masks, whose answers are large; a client has one second."""
    root = tmp_path_factory.mktemp("connection")
    folder = make_folder(root / "served", outputs="masks", width=64, classes=None)
    with running(folder, root / "log", "--receive-s", 1, "--name", "tiny") as server:
        yield server


def answered(s: socket.socket) -> int:
    answer = HTTPResponse(s)
    answer.begin()
    answer.read()
    return answer.status


def closed(s: socket.socket, seconds: float) -> bool:
    """Does the other side end it within so long?"""
    s.settimeout(seconds)
    try:
        return s.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("before", [b"", LIVE, LIVE * 2])
def test_every_head_has_its_time(server, before):
    with socket.create_connection(server.address) as s:
        s.sendall(before)
        said, count = b"", len(before) // len(LIVE)
        while said.count(b"HTTP/1.1 200") < count:
            said += s.recv(4096)
        until = time.monotonic() + 6
        with pytest.raises(OSError):
            while time.monotonic() < until:  # a letter at a time is no progress
                s.sendall(b"G")
                time.sleep(0.1)
        assert time.monotonic() < until


def test_the_rest_of_a_body_that_nobody_reads_has_its_time(server):
    with socket.create_connection(server.address) as s:
        s.sendall(LIVE.replace(b"\r\n\r\n", b"\r\nContent-Length: 1000000\r\n\r\n"))
        assert answered(s) == 200
        until = time.monotonic() + 6
        with pytest.raises(OSError):
            while time.monotonic() < until:
                s.sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() < until


def test_a_kept_connection_may_be_slow_between_requests(server):
    with socket.create_connection(server.address) as s:
        for _ in range(3):
            s.sendall(LIVE)
            assert answered(s) == 200
            time.sleep(1.2)


def test_an_answer_that_is_not_taken_is_given_up_and_holds_no_place(server):
    body, head = binary(images(4))
    lines = [f"POST {INFER} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}"]
    request = "\r\n".join([*lines, *(f"{k}: {v}" for k, v in head.items())]).encode() + b"\r\n\r\n" + body
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(20)]
        for s in clients:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.settimeout(0.1)
            s.connect(server.address)
            with contextlib.suppress(OSError):
                s.sendall(request * 30)
        with contextlib.closing(HTTPConnection(*server.address, timeout=30)) as other:
            other.request("POST", INFER, body, head)
            assert len(other.getresponse().read()) > 4 * 64 * 32 * 32
        time.sleep(4)
        for s in clients:
            s.settimeout(10)
            with contextlib.suppress(ConnectionError):
                while s.recv(2**20):
                    pass


def test_two_lengths_are_refused(server):
    with socket.create_connection(server.address) as s:
        head = f"POST {INFER} HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        s.sendall(head.encode() + b"0\r\n\r\n" + LIVE)
        assert answered(s) == 400
        assert closed(s, 5)


def test_past_the_connections_only_health_is_answered(tmp_path):
    """The bound is lowered in the server's own process; nothing else is."""
    code = "import sys\nfrom foveate.serve import connection\nconnection.CONNECTIONS, connection.RESERVED = 5, 3\n" + (
        "import foveate.cli\nfoveate.cli.main()"
    )
    folder = make_folder(tmp_path / "served")
    with (
        subprocess.Popen(
            [sys.executable, "-c", code, "serve", str(folder), "--port", "0", "--json"], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        ) as process,
        contextlib.ExitStack() as stack,
    ):  # fmt: skip
        stack.callback(process.kill)
        assert process.stdout is not None
        host, _, port = json.loads(process.stdout.readline())["url"].removeprefix("http://").rpartition(":")
        opened = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(5)]
        for s in opened:
            s.sendall(b"GET")
        time.sleep(0.2)
        for path, status in (("/v2/health/ready", 200), ("/v2/models/tiny/ready", 200), ("/v2/models/tiny", 503)):
            with contextlib.closing(HTTPConnection(host, int(port), timeout=10)) as other:
                other.request("GET", path)
                answer = other.getresponse()
                answer.read()
                assert (answer.status, answer.will_close) == (status, True)
        time.sleep(0.2)
        more = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(3)]
        time.sleep(0.2)
        with socket.create_connection((host, int(port))) as late:
            late.sendall(LIVE)
            assert answered(late) == 503
        assert all(closed(s, 6) for s in more), "the reserved ones are soon free again"


def test_memory_for_answers_is_bounded(run, monkeypatch):
    monkeypatch.setattr("foveate.serve.gate.unsent", lambda: 10**9)
    monkeypatch.setattr("foveate.serve.gate.SMALL", 1000)

    async def work(client, app):
        late = await client.get("/openapi.json")
        return late, app.state.service.state

    late, state = run(work)
    assert late.status_code == 503 and "no memory for another answer" in late.json()["error"]
    assert (state.active, state.unanswered) == (0, 0)


def test_it_still_answers(server):
    x = np.zeros((1, 3, 32, 32), np.float32)
    with contextlib.closing(HTTPConnection(*server.address, timeout=30)) as other:
        other.request("POST", INFER, *binary(x))
        assert other.getresponse().status == 200
    assert connection.unsent() == 0  # here, where nothing is served

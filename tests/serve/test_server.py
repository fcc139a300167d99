"""Servers in processes of their own that are asked too much, are ended, or do not start."""

import json
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

import numpy as np
import pytest
from support.served import (
    INFER,
    Server,
    alive,
    binary,
    expected,
    images,
    logits,
    make_folder,
    not_started,
    running,
    serve,
)

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

"""A server among strangers: requests that are none, clients that never read or hardly speak, bombs, and long use."""

import contextlib
import gzip
import io
import json
import os
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from support.served import INFER, alive, binary, images, logits, make_folder, running

from campaign.mutate import mutated_bytes, mutated_json
from campaign.tally import dice, tally, trials
from foveate.serve.connection import CONNECTIONS

pytestmark = pytest.mark.slow
ANSWERS = {200, 400, 401, 404, 405, 408, 411, 413, 415, 417, 422, 431, 501, 503, 505}
PATHS = (
    "/v2", "/v2/health/live", "/v2/models/tiny", "/v2/models/tiny/config", "/metrics", "/docs", "/v2/models/../x", "//",
    "/%2e%2e/%00", "/v2/models/" + "x" * 5000, "*", "http://a/", "/\u00e9", "/v2/repository/index", "/openapi.json",
    "/v2/models/tiny/versions/9/infer",
)  # fmt: skip
EXTRA = (
    ("Transfer-Encoding", "chunked"), ("Content-Length", "5"), ("Expect", "100-continue"), ("Connection", "upgrade"),
    ("X-Request-ID", "a\tb" * 99), ("Authorization", "Bearer \u00e9"), ("Accept", "x" * 7000), ("Host", "b"),
    ("Content-Length", "-5"), ("Bad Name", "x"),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("masks"), outputs="masks", width=50, classes=None)


def clean(server) -> str | None:
    """Nothing in its log but JSON, nothing of ours that failed."""
    for line in server.log.read_text().splitlines():
        if line.startswith(("serving ", "note ")):  # what it says to people before it begins
            continue
        try:
            said = json.loads(line)
        except ValueError:
            return f"no JSON in the log: {line[:300]}"
        if said.get("event") in ("failed", "unanswered") or said.get("level") == "critical":
            return f"logged: {line[:500]}"
    return None


def memory(server) -> float:
    return psutil.Process(server.process.pid).memory_info().rss / 2**20


def photo(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)).save(file, kind)
    return file.getvalue()


def made(random) -> bytes:
    """A request that means well, and then what is wrong with it."""
    x = images(1)
    kind = random.randrange(6)
    head = {"Host": "here", "Content-Type": "application/json"}
    path, method = INFER, "POST"
    if kind == 0:
        tensor = {"name": "image", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": x.ravel().tolist()}
        asked = {"id": "1", "inputs": [tensor], "outputs": [{"name": "logits", "parameters": {"classification": 3}}]}
        value, _ = mutated_json(asked, random)
        body = json.dumps(value).encode()
    elif kind == 1:
        body, more = binary(x)
        head |= more | {"Content-Type": "application/octet-stream"}
        if random.random() < 0.5:
            head["Inference-Header-Content-Length"] = random.choice(["-1", "0", "1e9", "9" * 30, "abc", "10", ""])
        else:
            body, _ = mutated_bytes(body, random)
    elif kind == 2:
        path, body = "/classify", mutated_bytes(photo(random.choice(["PNG", "JPEG", "WEBP", "TIFF"])), random)[0]
        head["Content-Type"] = random.choice(["image/png", "", "application/octet-stream", "text/plain", "image/" * 20])
        path += random.choice(["", "?k=0", "?k=3", "?k=99999999999999999999", "?k=a", "?" + "a" * 9000, "?k=%00"])
    elif kind == 3:
        path, edge = "/classify", random.choice(["b", "b" * 70, "b" * 300, "", '"', "\u00e9"])
        head["Content-Type"] = f"multipart/form-data; boundary={edge}"
        text = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        body = text.encode("latin-1", "replace") + photo() + f"\r\n--{edge}--\r\n".encode("latin-1", "replace")
        body = mutated_bytes(body, random)[0] if random.random() < 0.7 else body
    elif kind == 4:
        packed = gzip.compress(b"{}" * random.choice([1, 1000, 10**6]))
        head["Content-Encoding"] = random.choice(["gzip", "deflate", "br", "gzip, gzip", "GZIP"])
        body = mutated_bytes(packed, random)[0] if random.random() < 0.5 else packed
    else:
        method = random.choice(["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST", "TRACE", "FOO", "get", "CONNECT"])
        path = random.choice(PATHS)
        body = random.choice([b"", b"{}", b"x" * 10_000])
    if random.random() < 0.15:
        name, value = random.choice(EXTRA)
        head[name] = value
    head.setdefault("Content-Length", str(len(body)))
    lines = [f"{method} {path} HTTP/1.1", *(f"{key}: {value}" for key, value in head.items())]
    whole = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body
    return mutated_bytes(whole, random)[0] if random.random() < 0.15 else whole


def asked(server, data: bytes) -> tuple[int | None, bytes, str | None]:
    """(status, body, what is wrong with the answer); no status where the server closes without a word."""
    with socket.create_connection(server.address, timeout=20) as s:
        try:
            s.sendall(data)
            answer = HTTPResponse(s, method="HEAD" if data.startswith(b"HEAD") else None)
            answer.begin()
            return answer.status, answer.read(), None
        except TimeoutError:
            return None, b"", "neither an answer nor an end within 20 s"
        except (OSError, HTTPException):
            return None, b"", None


def test_fuzzed_requests(folder, tmp_path):
    with (
        tally("fuzzed requests") as found,
        running(folder, tmp_path / "log", "--receive-s", 2) as server,
        ThreadPoolExecutor(16) as pool,
    ):
        random, statuses = dice("requests"), dict[int | None, int]()
        every = [made(random) for _ in range(trials(5000))]
        for i, (data, (status, body, fault)) in enumerate(
            zip(every, pool.map(partial(asked, server), every), strict=True)
        ):
            statuses[status] = statuses.get(status, 0) + 1
            if status is not None and status not in ANSWERS:
                fault = f"status {status}: {body[:200]!r}"
            elif status is not None and status >= 400 and b"\n" in body:
                fault = f"no one line: {body[:300]!r}"
            found.count(fault and f"trial {i}: {data[:300]!r}: {fault}")
        alive(server)
        found.count(clean(server))
        found.facts |= {f"status {status or 'closed'}": n for status, n in sorted(statuses.items(), key=str)}


def test_clients_that_never_read(masks, tmp_path):
    """More of them than there are places, each asking again and again for large answers: others are answered."""
    with (
        tally("clients that never read") as found,
        running(masks, tmp_path / "log", "--receive-s", 3, "--queue", 16, "--name", "tiny") as server,
        contextlib.ExitStack() as stack,
    ):
        body, head = binary(images(4))
        lines = [f"POST {INFER} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}"]
        lines += [f"{k}: {v}" for k, v in head.items()]
        request = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        clients = []
        for _ in range(90):
            s = stack.enter_context(socket.socket())
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.settimeout(0.2)
            s.connect(server.address)
            with contextlib.suppress(OSError):
                s.sendall(request * 20)
            clients.append(s)
        time.sleep(3)
        for _ in range(trials(100)):
            with contextlib.closing(HTTPConnection(*server.address, timeout=20)) as connection:
                connection.request("POST", INFER, body, head)
                answer = connection.getresponse()
                answer.read()
                found.count(None if answer.status == 200 else f"status {answer.status}")
        time.sleep(7)
        ours = sum(c.status == "ESTABLISHED" for c in psutil.Process(server.process.pid).net_connections())
        found.count(f"{ours} connections are still held" if ours > 5 else None)
        found.count(clean(server))


def test_slow_heads(folder, tmp_path):
    """All connections taken by clients that send a second head a letter at a time: health is still answered, and after
    their time they are gone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 3 * CONNECTIONS), hard))
    with (
        tally("slow heads") as found,
        running(folder, tmp_path / "log", "--receive-s", 6) as server,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        clients = []
        began = time.monotonic()
        for i in range(CONNECTIONS + 20):
            s = stack.enter_context(socket.create_connection(server.address, timeout=20))
            if i % 8 == 0:
                s.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: here\r\n\r\n")
            s.sendall(b"GET /v2")
            clients.append(s)
        for _ in range(trials(60)):
            try:
                found.count(None if server.get("/v2/health/ready") == b'{"ready":true}' else "not ready")
            except OSError as e:
                found.count(f"after {time.monotonic() - began:.1f} s: {type(e).__name__}: {e}")
            for s in clients[:: max(1, len(clients) // 200)]:
                with contextlib.suppress(OSError):
                    s.send(b"x")
            time.sleep(0.02)
        time.sleep(8)
        held = sum(c.status == "ESTABLISHED" for c in psutil.Process(server.process.pid).net_connections())
        found.count(f"{held} connections are still held" if held > 5 else None)
        alive(server)


def bombs() -> dict[str, bytes]:
    deep = np.zeros((7000, 7000), np.uint16)
    found = {}
    for name, image, kind in (
        ("16-bit PNG", Image.fromarray(deep), "PNG"), ("grey PNG", Image.new("L", (7000, 7000)), "PNG"),
        ("RGBA PNG", Image.new("RGBA", (7000, 7000)), "PNG"), ("CMYK JPEG", Image.new("CMYK", (7000, 7000)), "JPEG"),
        ("TIFF", Image.new("RGB", (7000, 7000)), "TIFF"), ("WebP", Image.new("RGB", (7000, 7000)), "WEBP"),
    ):  # fmt: skip
        file = io.BytesIO()
        image.save(file, kind, **({"compression": "tiff_adobe_deflate"} if kind == "TIFF" else {}))
        found[name] = file.getvalue()
    return found


def test_bombs(folder, tmp_path):
    """Small files that unpack to the largest photographs allowed, several at once: bounded, and given back."""
    with tally("bombs") as found, running(folder, tmp_path / "log") as server:
        alive(server)
        before, peak, done = memory(server), [0.0], threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                peak[0] = max(peak[0], memory(server))

        watcher = threading.Thread(target=watch)
        watcher.start()
        for name, data in bombs().items():
            threads, statuses = [], list[int]()

            def send(data: bytes = data, statuses: list[int] = statuses) -> None:
                with contextlib.closing(HTTPConnection(*server.address, timeout=120)) as connection:
                    connection.request("POST", "/classify", data, {"Content-Type": "image/x"})
                    answer = connection.getresponse()
                    answer.read()
                    statuses.append(answer.status)

            for _ in range(4):
                threads.append(threading.Thread(target=send))
                threads[-1].start()
            for thread in threads:
                thread.join()
            found.count(None if statuses == [200] * 4 else f"{name}: {statuses}")
        done.set()
        watcher.join()
        packed = gzip.compress(b" " * 2**30)
        with contextlib.closing(HTTPConnection(*server.address, timeout=60)) as connection:
            connection.request("POST", INFER, packed, {"Content-Encoding": "gzip", "Content-Type": "application/json"})
            status = connection.getresponse().status
        found.count(None if status == 413 else f"a gigabyte in {len(packed)} bytes: {status}")
        after = memory(server)
        found.facts |= {"before_mb": round(before), "peak_mb": round(peak[0]), "after_mb": round(after)}
        found.count(f"took {peak[0] - before:.0f} MB" if peak[0] - before > 1000 else None)
        found.count(f"kept {after - before:.0f} MB" if after - before > 150 else None)
        alive(server)
        found.count(clean(server))


def test_long_use(folder, tmp_path):
    """Thousands of requests of all kinds: memory at the end as after the first ones."""
    with tally("requests, memory before and after") as found, running(folder, tmp_path / "log") as server:
        random, x, picture = dice("long"), images(1), photo("JPEG")
        right, before = None, 0.0
        connection = HTTPConnection(*server.address, timeout=30)
        number = trials(20_000)
        for i in range(number):
            kind = random.random()
            if kind < 0.7:
                connection.request("POST", INFER, *binary(x))
                answer = connection.getresponse()
                body = answer.read()
                now = logits(answer.status, answer.headers, body) if answer.status == 200 else None
                right = now if right is None else right
                ok = now is not None and np.array_equal(now, right)
            elif kind < 0.9:
                connection.request("POST", "/classify", picture, {"Content-Type": "image/jpeg"})
                answer = connection.getresponse()
                ok = bool(answer.read()) and answer.status == 200
            else:
                connection.request(
                    "POST", "/classify", picture[: random.randrange(1, 200)], {"Content-Type": "image/x"}
                )
                answer = connection.getresponse()
                ok = bool(answer.read()) and answer.status == 400
            if answer.will_close:
                connection.close()
            found.count(None if ok else f"request {i}: {answer.status}")
            if i == number // 10:
                before = memory(server)
        connection.close()
        after = memory(server)
        found.facts |= {"before_mb": round(before), "after_mb": round(after)}
        found.count(f"grew from {before:.0f} to {after:.0f} MB" if after > 1.1 * before + 20 else None)
        found.count(clean(server))


def test_workers_end_with_their_parent(folder, tmp_path):
    with tally("kill -9 of a server with workers") as found:
        for i in range(trials(20)):
            with running(folder, tmp_path / f"log{i}", "--workers", 2) as server:
                alive(server)
                parent = psutil.Process(server.process.pid)
                workers = parent.children(recursive=True)
                os.kill(server.process.pid, 9)
                _, left = psutil.wait_procs(workers, timeout=10)
                found.count(f"{[p.pid for p in left]} go on" if left else None)
                for process in left:
                    process.kill()
    assert Path(folder).is_dir()

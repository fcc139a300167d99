"""Serving under load: the highest rate within a latency objective, with the knob free and fixed, and what it costs.

    python -m benchmarks.serving --folder foveate-out --slo-ms 50

Labelled photographs (clothing10_160.zip, its test split) are preprocessed here and sent as binary tensors over
keep-alive connections by this process, at even intervals whatever the server does (an open loop: who falls behind is
late from the moment it was due, not from the moment it was sent). The two servers, each a process of its own, take
turns at every rate, so that a noisy minute hurts both. A rate is held where 99 % of the requests were answered within
the objective, counted from when they were due, and none was refused.
"""

import argparse
import json
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Sheet, data_folder, say
from foveate.artefact import read_card
from foveate.elastic import Frontier
from foveate.evaluate import open_images
from foveate.plans import Plan
from foveate.preprocess import Preprocess

CONNECTIONS = 64  # kept open; more than can be under way within any objective that is held
IDLE_S = 3.0  # servers close a connection that has been idle for longer (uvicorn: 5 s), and that may cross a request
NAME = "served"


@dataclass
class Reply:
    """Of one request. ms: from when it was due; point: -1 where it was refused or lost."""

    due: float
    ms: float
    point: int
    right: bool


class Server:
    """A server at an address."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self.address = (host, int(port))

    def connect(self) -> HTTPConnection:
        return HTTPConnection(*self.address, timeout=60)


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """`foveate serve` in a process of its own; what it says goes to our stderr."""
    command = [sys.executable, "-m", "foveate", "serve", str(folder), "--port", "0", "--json", "--name", NAME,
               "--log-level", "warning", *options]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if not (said := process.stdout.readline()):
                raise SystemExit(2)
            yield Server(json.loads(said)["url"])
        finally:
            process.terminate()
            process.wait(60)


def bodies(folder: Path, data: Path, most: int) -> tuple[list[bytes], int, list[int]]:
    """Requests of one preprocessed photograph each, the length of their JSON, and the labels."""
    images = open_images(data, classes=read_card(folder).classes, limit=most)
    if images.labels is None:
        raise SystemExit(f"{data} has no labels")
    x = images.array(Preprocess.load(folder / "preprocess.json"))
    size = {"binary_data_size": x[0].nbytes}
    tensor = {"name": "image", "shape": [1, *x.shape[1:]], "datatype": "FP32", "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return [head + row.tobytes() for row in x], len(head), [int(label) for label in images.labels]


def load(
    server: Server, requests: tuple[list[bytes], int, list[int]], rates: Sequence[tuple[float, float]]
) -> list[Reply]:
    """Offer requests at these (rate a second, seconds) one after the other; a reply for each, in the order due."""
    content, length, labels = requests
    path, headers = f"/v2/models/{NAME}/infer", {"Inference-Header-Content-Length": str(length)}
    todo: queue.SimpleQueue[tuple[int, float] | None] = queue.SimpleQueue()
    replies: list[Reply] = []

    def ask(connection: HTTPConnection, number: int, due: float) -> Reply:
        connection.request("POST", path, content[number % len(content)], headers)
        answer = connection.getresponse()
        body = answer.read()
        ms = 1e3 * (time.monotonic() - due)
        if answer.status != 200:
            return Reply(due, ms, -1, False)
        header = int(answer.headers["Inference-Header-Content-Length"])
        guess = int(np.frombuffer(body[header:], "<f4").argmax())
        point = json.loads(body[:header])["parameters"]["operating_point"]
        return Reply(due, ms, point, guess == labels[number % len(labels)])

    def work() -> None:
        connection, used = server.connect(), time.monotonic()
        while (given := todo.get()) is not None:
            number, due = given
            if time.monotonic() - used > IDLE_S:
                connection.close()  # it opens anew by itself
            try:
                replies.append(ask(connection, number, due))
            except (OSError, HTTPException):
                replies.append(Reply(due, 1e3 * (time.monotonic() - due), -1, False))
                connection.close()
            used = time.monotonic()
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for t in threads:
        t.start()
    due, number = time.monotonic() + 0.1, 0
    for rate, seconds in rates:
        for _ in range(max(1, round(rate * seconds))):
            time.sleep(max(0.0, due - time.monotonic()))
            todo.put((number, due))
            number, due = number + 1, due + 1 / rate
    for _ in threads:
        todo.put(None)
    for t in threads:
        t.join()
    return sorted(replies, key=lambda r: r.due)


def summary(replies: Sequence[Reply], slo_ms: float) -> dict[str, Any]:
    ms = np.array([r.ms for r in replies])
    answered = [r for r in replies if r.point >= 0]
    lost = len(replies) - len(answered)
    used = Counter(r.point for r in answered)
    p99 = float(np.quantile(ms, 0.99))
    return {
        "requests": len(replies), "lost": lost, "p50_ms": float(np.median(ms)), "p99_ms": p99,
        "held": lost == 0 and p99 <= slo_ms,
        "accuracy": 100 * sum(r.right for r in answered) / max(1, len(answered)),
        "points": {str(p): n / len(answered) for p, n in sorted(used.items())},
    }  # fmt: skip


def back_after_burst(server: Server, requests: Any, low: float, burst: float, seconds: float) -> dict[str, Any]:
    """After `seconds` at the rate `burst`, how long the rate `low` still gets faster points than it had before."""
    replies = load(server, requests, [(low, seconds), (burst, seconds), (low, 2 * seconds)])
    end = replies[0].due + 2 * seconds
    after = [r for r in replies if r.due >= end]
    rest = Counter(r.point for r in replies if r.due < replies[0].due + seconds).most_common(1)[0][0]
    turned = [r for r in after if r.point > rest]
    return {
        "kind": "burst", "low": low, "burst": burst, "lost": sum(r.point < 0 for r in replies),
        "fastest_used": max(r.point for r in replies),
        "back_s": max(0.0, turned[-1].due - end) if turned else 0.0, "rest": rest,
        "came_back": bool(after) and after[-1].point <= rest,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="with operating points: foveate fit --points 6")
    parser.add_argument("--data", type=Path, help="labelled photographs; by default the test split of the data folder")
    parser.add_argument("--slo-ms", type=float, default=50.0)
    parser.add_argument("--rates", type=float, nargs="+", help="requests a second; by default around the model's own")
    parser.add_argument("--seconds", type=float, default=15.0, help="at every rate")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both servers at every rate")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--fresh", action="store_true")
    args = parser.parse_args()
    data = args.data or data_folder() / "clothing10" / "clothing10_160.zip" / "test"
    requests = bodies(args.folder, data, args.images)
    plan = Plan.load(args.folder)
    sheet = Sheet("serving", fresh=args.fresh, slo_ms=args.slo_ms, seconds=args.seconds, rounds=args.rounds,
                  images=len(requests[0]), plan=plan.summary(), model=plan.model.name, runtime=plan.target.runtime,
                  precision=plan.target.precision, threads=plan.target.threads,
                  points=len(Frontier.load(args.folder).points))  # fmt: skip
    with ExitStack() as stack:
        free = stack.enter_context(serving(args.folder, "--slo-ms", str(args.slo_ms)))
        fixed = stack.enter_context(serving(args.folder, "--point", "0"))
        servers = {"free": free, "fixed": fixed}
        alone = [load(fixed, requests, [(4, 2)]) for _ in range(2)][-1]
        own = 1e3 / float(np.median([r.ms for r in alone]))  # what one request after the other would reach
        rates = args.rates or [own * share for share in (0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5)]
        best: dict[str, float] = {}
        for rate in rates:
            keys = {kind: f"{args.slo_ms:g} ms {rate:.1f}/s {kind}" for kind in servers}
            got: dict[str, list[Reply]] = {k: [] for k in servers}
            for turn in range(0 if all(key in sheet.value["rows"] for key in keys.values()) else args.rounds):
                for kind in sorted(servers, reverse=turn % 2 == 1):
                    got[kind] += load(servers[kind], requests, [(rate, args.seconds)])
            rows = {}
            for kind, key in keys.items():
                replies = got[kind]
                rows[kind] = sheet.row(
                    key, lambda k=kind, r=rate, g=replies: {"kind": k, "rate": r, **summary(g, args.slo_ms)}
                )
                if rows[kind]["held"]:
                    best[kind] = max(rate, best.get(kind, 0.0))
            if not any(row["held"] for row in rows.values()):
                break  # more would not be held either
        sheet.row(f"{args.slo_ms:g} ms highest", lambda: {"kind": "highest", **best})
        low, burst = 0.4 * best.get("fixed", rates[0]), 1.1 * best.get("free", rates[0])
        sheet.row(
            f"{args.slo_ms:g} ms burst", lambda: back_after_burst(free, requests, low, burst, max(1.0, args.seconds))
        )
    say(f"highest rate held within {args.slo_ms:g} ms: {best}")


if __name__ == "__main__":
    main()

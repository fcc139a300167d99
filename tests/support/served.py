"""A small deployed folder with three operating points, real servers on it, and requests that show them alive."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from foveate.artefact import write_card
from foveate.elastic import Frontier, Point
from foveate.elastic.frontier import Figure
from foveate.facts import Outputs
from foveate.plans import ModelRef, Plan, Step
from foveate.preprocess import Preprocess
from foveate.runtimes._export import INPUT, OUTPUT
from foveate.target import Target

INFER = "/v2/models/tiny/infer"
CLASSES = ("ant", "bee", "cat", "dog", "eel")
SIZE = (32, 32)
PREPROCESS = Preprocess(size=SIZE)
REF = ModelRef(name="tiny", weights="object", tokens=17, depth=3, prefix=1)


def make_folder(
    folder: Path, *, batch: int = 4, elastic: bool = True, slow: int = 0, outputs: Outputs = "classes",
    classes: tuple[str, ...] | None = CLASSES, width: int = len(CLASSES),
) -> Path:  # fmt: skip
    """A deployed folder for ONNX Runtime, made in moments: outputs are a product of the pixels and `weights(point)`.

    Its latencies in frontier.json are made up. slow: products of 512 x 512 matrices that every call does besides.
    outputs, width: see `expected`.
    """
    points = []
    for i, kept in enumerate((None, 10, 5)):
        steps = () if kept is None else (Step(block=0, method="tome", tokens=kept),)
        plan = Plan(model=REF, steps=steps, target=Target(runtime="onnxruntime", batch=batch, threads=1))
        file = Path("model.onnx" if i == 0 else f"points/{i}/model.onnx")
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        onnx.save(_graph(batch, i, slow, outputs, width), folder / file)
        points.append(Point(
            steps=steps, file=str(file), tokens=plan.schedule.after, gmacs=1 - i / 4, latency_ms=9 - 3 * i, p99_ms=20,
            share=1 - i / 4, share_low=0.5, share_high=1, quality=90 - 5 * i, quality_low=80, quality_high=95,
            energy_mj=8 - 2 * i,
        ))  # fmt: skip
    dense = Plan(model=REF, target=Target(runtime="onnxruntime", batch=batch, threads=1))
    write_card(folder, dense, "model.onnx", PREPROCESS, classes if outputs != "embedding" else None, None, outputs)
    if elastic:
        figures: dict[Outputs, Figure] = {"classes": "top-1", "embedding": "kNN accuracy", "masks": "mIoU"}
        Frontier(
            target=dense.target, figure=figures[outputs], images=100, energy="modelled", energy_source="a test",
            points=tuple(points),
        ).save(folder)  # fmt: skip
    return folder


def weights(point: int, width: int = len(CLASSES)) -> np.ndarray:
    """float32 [3 x 32 x 32, width]."""
    return np.random.default_rng(point).normal(size=(3 * 32 * 32, width)).astype(np.float32) / 32


def expected(images: np.ndarray, point: int, outputs: Outputs = "classes", width: int = len(CLASSES)) -> np.ndarray:
    """The outputs of images [n 3 32 32]: [n width], or masks [n width 32 32], the mean of the channels times
    `pixel_weights`."""
    if outputs == "masks":
        return images.mean(axis=1, keepdims=True) * pixel_weights(point, width)
    return images.reshape(len(images), -1) @ weights(point, width)


def pixel_weights(point: int, width: int = len(CLASSES)) -> np.ndarray:
    """float32 [1 width 1 1]."""
    return np.random.default_rng(point).normal(size=(1, width, 1, 1)).astype(np.float32)


def _graph(batch: int, point: int, slow: int, outputs: Outputs, width: int) -> onnx.ModelProto:
    tensor, node, array = onnx.helper.make_tensor_value_info, onnx.helper.make_node, onnx.numpy_helper.from_array
    shape = [batch, width]
    if outputs == "masks":
        shape = [batch, width, *SIZE]
        held = [array(pixel_weights(point, width), "w"), array(np.int64([1]), "channels")]
        nodes = [node("ReduceMean", [INPUT, "channels"], ["flat"]), node("Mul", ["flat", "w"], ["product"])]
    else:
        held = [array(weights(point, width), "w")]
        nodes = [node("Flatten", [INPUT], ["flat"], axis=1), node("MatMul", ["flat", "w"], ["product"])]
    last = "product"
    if slow:
        held += [array(np.eye(512, dtype=np.float32), "eye"), array(np.float32([0]), "zero")]
        nodes += [node("ReduceMax", ["flat"], ["most"], keepdims=0), node("Mul", ["most", "zero"], ["none"]),
                  node("Add", ["eye", "none"], ["m0"])]  # fmt: skip
        nodes += [node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(slow)]
        nodes += [node("ReduceMax", [f"m{slow}"], ["one"], keepdims=0), node("Mul", ["product", "one"], ["slowly"])]
        last = "slowly"
    nodes.append(node("Identity", [last], [OUTPUT]))
    graph = onnx.helper.make_graph(
        nodes, "tiny", [tensor(INPUT, onnx.TensorProto.FLOAT, [batch, 3, *SIZE])],
        [tensor(OUTPUT, onnx.TensorProto.FLOAT, shape)], held,
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


@dataclass
class Server:
    """A server in a process of its own; what it writes to stderr lies in a file."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def lines(self) -> list[dict[str, Any]]:
        text = self.log.read_text()
        text = text[: text.rfind("\n") + 1]  # not one that is being written
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def logged(self, seconds: float = 30, **facts: object) -> list[dict[str, Any]]:
        """The lines that hold `facts`; waits for one, since a request's line is written after its answer."""
        until = time.monotonic() + seconds
        while not (found := [line for line in self.lines() if line.items() >= facts.items()]):
            if time.monotonic() > until:
                break
            time.sleep(0.02)
        return found

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read()

    def end(self, sig: int = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        return self.process.wait(60)


@contextlib.contextmanager
def running(folder: Path, log: Path, *options: object, env: dict[str, str] | None = None) -> Iterator[Server]:
    command = [sys.executable, "-m", "foveate", "serve", str(folder), "--port", "0", "--json", *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    with (
        log.open("w") as err,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True, env=environment) as process,
    ):
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said, log.read_text()
            yield Server(process, json.loads(said)["url"], log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(30)


def serve(*args: object) -> subprocess.CompletedProcess[str]:
    """What becomes of a server that should not start."""
    command = [sys.executable, "-m", "foveate", "serve", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"COLUMNS": "300"})


def not_started(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, and one line on stderr that holds `words`."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error"), done.stderr
    for word in words:
        assert word in lines[0]


def images(n: int, seed: int = 0) -> np.ndarray:
    """float32 [n 3 32 32]."""
    return np.random.default_rng(seed).normal(size=(n, 3, *SIZE)).astype(np.float32)


def binary(x: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """A request with binary tensors both ways, and its headers."""
    tensor = {"name": "image", "shape": list(x.shape), "datatype": "FP32"}
    text = json.dumps({
        "inputs": [tensor | {"parameters": {"binary_data_size": x.nbytes}}], "parameters": {"binary_data_output": True}
    }).encode()  # fmt: skip
    return text + x.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


def logits(status: int, headers, body: bytes) -> np.ndarray:
    """The logits [n classes] of an answer to `binary`."""
    assert status == 200, body
    return np.frombuffer(body[int(headers["Inference-Header-Content-Length"]) :], "<f4").reshape(-1, len(CLASSES))


def alive(server: Server) -> None:
    """It answers, and rightly."""
    x = images(2)
    with contextlib.closing(HTTPConnection(*server.address, timeout=30)) as connection:
        connection.request("POST", INFER, *binary(x))
        answer = connection.getresponse()
        np.testing.assert_allclose(logits(answer.status, answer.headers, answer.read()), expected(x, 0), atol=1e-4)

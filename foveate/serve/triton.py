"""What Triton's clients ask beside the protocol: a model's configuration, its statistics, the list of models.

`tritonclient.get_model_config`, `get_inference_statistics` and `get_model_repository_index`, and with them
perf_analyzer. Names and units are Triton's (nanoseconds); figures are the counters of /metrics, of this process.
"""

from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from foveate.serve import protocol
from foveate.serve.metrics import Metrics
from foveate.serve.openapi import Replies
from foveate.serve.served import Served
from foveate.serve.service import Service

INFER = ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")


class Config(BaseModel):
    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]
    version_policy: dict[str, Any]
    instance_group: list[dict[str, Any]]


class Statistics(BaseModel):
    model_stats: list[dict[str, Any]]


class Indexed(BaseModel):
    name: str
    version: str
    state: str
    reason: str


def config(served: Served, most: int) -> Config:
    """`most`: images that one request may hold."""
    spec, target = served.spec, served.artefact.plan.target
    assert spec is not None
    image = {"name": "image", "data_type": "TYPE_FP32", "dims": [spec.channels, *spec.size], "optional": True}
    photo = {"name": "photo", "data_type": "TYPE_STRING", "dims": [], "optional": True}  # one of the two
    return Config(
        name=spec.name, platform=f"foveate_{target.runtime}", backend="foveate", max_batch_size=most,
        input=[image, photo],
        output=[{"name": spec.output, "data_type": "TYPE_FP32", "dims": list(spec.shape)}],
        version_policy={"specific": {"versions": [int(protocol.VERSION)]}},
        instance_group=[{"name": spec.name, "kind": f"KIND_{'GPU' if target.kind == 'cuda' else 'CPU'}", "count": 1}],
    )  # fmt: skip


def statistics(name: str, metrics: Metrics) -> Statistics:
    """Since the process began. A request counts when it is answered; its images wait and are called in batches."""
    answered = sum(metrics.total("foveate_requests_total", route=route, status="200") for route in INFER)
    asked = sum(metrics.total("foveate_requests_total", route=route) for route in INFER)
    took = sum(metrics.total("foveate_request_seconds_sum", route=route) for route in INFER)
    images, calls = metrics.total("foveate_images_total"), metrics.total("foveate_call_seconds_count")
    waited, called = metrics.total("foveate_wait_seconds_sum"), metrics.total("foveate_call_seconds_sum")
    of = lambda count, seconds: {"count": int(count), "ns": int(1e9 * seconds)}
    parts = {
        "success": of(answered, took), "fail": of(asked - answered, 0.0), "queue": of(images, waited),
        "compute_input": of(0, 0.0), "compute_infer": of(calls, called), "compute_output": of(0, 0.0),
        "cache_hit": of(0, 0.0), "cache_miss": of(0, 0.0),
    }  # fmt: skip
    one = {
        "name": name, "version": protocol.VERSION, "last_inference": int(1e3 * metrics.last_call),
        "inference_count": int(images), "execution_count": int(calls), "inference_stats": parts, "batch_stats": [],
    }  # fmt: skip
    return Statistics(model_stats=[one])


def add_routes(app: FastAPI, service: Service, replies: Replies) -> None:
    """Before those of single models: `stats` is no model."""
    spec, served, metrics = service.spec, service.served, service.metrics
    said = lambda value: JSONResponse(value.model_dump())

    @app.get("/v2/models/stats", **replies.json(Statistics))
    async def all_stats() -> Response:
        return said(statistics(spec.name, metrics))

    @app.get("/v2/models/{name}/stats", **replies.json(Statistics, 404))
    async def model_stats(name: str) -> Response:
        service.check(name)
        return said(statistics(spec.name, metrics))

    @app.get("/v2/models/{name}/versions/{version}/stats", **replies.json(Statistics, 404))
    async def version_stats(name: str, version: str) -> Response:
        service.check(name, version)
        return said(statistics(spec.name, metrics))

    @app.get("/v2/models/{name}/config", **replies.json(Config, 404))
    async def model_config(name: str) -> Response:
        service.check(name)
        return said(config(served, spec.images))

    @app.get("/v2/models/{name}/versions/{version}/config", **replies.json(Config, 404))
    async def version_config(name: str, version: str) -> Response:
        service.check(name, version)
        return said(config(served, spec.images))

    @app.post("/v2/repository/index", **replies.json(list[Indexed], 503))
    async def repository_index() -> Response:
        one = Indexed(name=spec.name, version=protocol.VERSION, state="READY", reason="")
        return JSONResponse([one.model_dump()])

"""The application: routes, what OpenAPI says of them, and the way from a body to an answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Annotated, Any

import pydantic_core
from fastapi import FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from foveate.errors import InputError, TooLarge
from foveate.serve import openapi, protocol, triton
from foveate.serve.batcher import ModelFailed
from foveate.serve.bodies import RAW, media_type
from foveate.serve.gate import Gate, ServerState
from foveate.serve.metrics import TYPE, Metrics
from foveate.serve.pages import docs_page, start_page
from foveate.serve.photos import PATHS, add_photo_route
from foveate.serve.served import Served
from foveate.serve.service import Service
from foveate.serve.settings import Settings
from foveate.version import __version__

INLINE = 65536  # bytes that are parsed or written on the event loop; more would hold up everyone
Length = Annotated[int | None, Header(alias="Inference-Header-Content-Length", ge=0)]


def create_app(
    served: Served, settings: Settings, *, signals: Callable[[ServerState], AbstractContextManager[None]] | None = None
) -> FastAPI:
    """The ASGI application of a loaded model; `signals` surrounds its life (see server.py)."""
    state, metrics = ServerState(), Metrics(served)
    service = Service(served, settings, metrics, state)
    spec = service.spec

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        with nullcontext() if signals is None else signals(state):
            yield
        service.batcher.close()
        await asyncio.to_thread(service.batcher.join, settings.drain_s)
        service.pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(title="foveate", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_middleware(Gate, settings=settings, state=state, metrics=metrics)  # type: ignore[arg-type]
    _explain(app, metrics)
    replies = openapi.Replies(settings.token is not None)

    @app.get("/v2", **replies.json(openapi.ServerMetadata))
    async def server_metadata() -> Response:
        return _json({"name": "foveate", "version": __version__, "extensions": spec.extensions})

    @app.get("/v2/health/live", **replies.json(openapi.Live, open=True))
    async def live() -> Response:
        return _json({"live": True})

    @app.get("/v2/health/ready", **replies.json(openapi.Ready, 503, open=True))
    async def ready() -> Response:
        return _json({"ready": not state.draining}, 503 if state.draining else 200)

    triton.add_routes(app, service, replies)

    @app.get("/v2/models/{name}", **replies.json(openapi.ModelMetadata, 404))
    async def model_metadata(name: str) -> Response:
        service.check(name)
        return _json(openapi.metadata(served, settings))

    @app.get("/v2/models/{name}/versions/{version}", **replies.json(openapi.ModelMetadata, 404))
    async def version_metadata(name: str, version: str) -> Response:
        service.check(name, version)
        return _json(openapi.metadata(served, settings))

    @app.get("/v2/models/{name}/ready", **replies.json(openapi.ModelReady, 404, 503, open=True))
    async def model_ready(name: str) -> Response:
        service.check(name)
        return _json({"name": spec.name, "ready": not state.draining}, 503 if state.draining else 200)

    @app.get("/v2/models/{name}/versions/{version}/ready", **replies.json(openapi.ModelReady, 404, 503, open=True))
    async def version_ready(name: str, version: str) -> Response:
        service.check(name, version)
        return await model_ready(name)

    @app.post("/v2/models/{name}/infer", **replies.infer(spec))
    async def infer(request: Request, name: str, header_length: Length = None) -> Response:
        service.check(name)
        media_type(request, ("application/json", *RAW))
        async with service.bodies.receive(request) as body:
            small = (len(body) if header_length is None else header_length) <= INLINE
            ask = protocol.read(body, header_length, spec) if small else await service.in_pool(
                protocol.read, body, header_length, spec
            )  # fmt: skip
            images = await service.decoded(ask.photos) if ask.images is None else ask.images
            answer = await service.answer(request, images)
        said = (ask, answer.outputs, spec, answer.points, answer.latency_ms, answer.queue_ms)
        inline = answer.outputs.nbytes <= INLINE
        content, length = protocol.write(*said) if inline else await service.in_pool(protocol.write, *said)
        if length is None:
            return Response(content, media_type="application/json")
        return Response(
            content, media_type="application/octet-stream", headers={"Inference-Header-Content-Length": str(length)}
        )

    @app.post("/v2/models/{name}/versions/{version}/infer", **replies.infer(spec))
    async def version_infer(
        request: Request, name: str, version: str, header_length: Length = None
    ) -> Response:  # fmt: skip
        service.check(name, version)
        return await infer(request, name, header_length)

    add_photo_route(app, service, replies)

    @app.get("/", include_in_schema=False)
    async def start() -> Response:
        return HTMLResponse(start_page(spec, PATHS[spec.kind]))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi(), spec.name))

    @app.get("/metrics", **replies.text(TYPE))
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type=TYPE)

    openapi.settle(app, settings.token is not None, {"name": spec.name, "version": protocol.VERSION})
    return app


def _json(value: Any, status: int = 200) -> Response:
    return Response(pydantic_core.to_json(value), status, media_type="application/json")


def _explain(app: FastAPI, metrics: Metrics) -> None:
    """Every error is a status and `{"error": one line}`."""

    def say(status: int, line: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": line}, status, headers)

    @app.exception_handler(InputError)
    async def wrong(_: Request, e: InputError) -> Response:
        return say(413 if isinstance(e, TooLarge) else 400, str(e))

    @app.exception_handler(ModelFailed)
    async def failed(_: Request, e: ModelFailed) -> Response:
        return say(500, str(e))

    @app.exception_handler(HTTPException)
    async def refused(_: Request, e: HTTPException) -> Response:
        if reason := getattr(e, "reason", None):
            metrics.refused.labels(reason).inc()
        return say(e.status_code, str(e.detail), e.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, e: RequestValidationError) -> Response:
        first = e.errors()[0]
        return say(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']} (got {str(first.get('input'))[:60]!r})")

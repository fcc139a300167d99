"""The application: routes, what OpenAPI says of them, and the way from a body to an answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Annotated, Any

import numpy as np
import pydantic_core
from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from foveate import __version__
from foveate.errors import InputError, TooLarge
from foveate.evaluate import top
from foveate.preprocess import decode_image
from foveate.serve import openapi, protocol
from foveate.serve.batcher import Answer, Batcher, Closed, Full, ModelFailed
from foveate.serve.bodies import Bodies, Refused, file_of
from foveate.serve.gate import Gate, State
from foveate.serve.metrics import TYPE, Metrics
from foveate.serve.protocol import Spec
from foveate.serve.served import Served
from foveate.serve.settings import Settings

DECODERS = 2  # photographs decoded at once: each may take hundreds of MB
INLINE = 65536  # bytes of JSON that are parsed on the event loop; more would hold up everyone
RAW = ("application/octet-stream", "application/x-www-form-urlencoded", "")  # the second is what curl says by default
Length = Annotated[int | None, Header(alias="Inference-Header-Content-Length", ge=0)]


class Service:
    """What the routes share: the model's queue, the decoders, the limits."""

    def __init__(self, served: Served, settings: Settings, metrics: Metrics, state: State) -> None:
        assert served.spec is not None
        self.served, self.settings, self.metrics, self.state = served, settings, metrics, state
        self.spec: Spec = served.spec
        # Room for eight of the largest bodies, or for an ordinary one of everybody under way.
        self.bodies = Bodies(settings.max_body_bytes, settings.receive_s, 8 * settings.max_body_bytes)
        self.batcher = Batcher(
            served.call, served.choose, batch=served.batch, queue=settings.queue, batch_ms=settings.batch_ms,
            latencies=served.latencies, seen=metrics.called,
        )  # fmt: skip
        metrics.watch(self.batcher)
        self.pool = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")

    async def in_pool(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *args)

    async def decoded(self, photos: tuple[bytes, ...]) -> list[np.ndarray]:
        """Encoded files -> preprocessed [3 h w] each."""
        if not self.batcher.room(len(photos)):  # before the work, not after it
            raise self.full(len(photos))

        def work(data: bytes, name: str) -> np.ndarray:
            image = decode_image(data, name, max_pixels=self.settings.max_pixels)
            return self.served.artefact.preprocess(image)

        return [await self.in_pool(work, data, f"{i}") for i, data in enumerate(photos)]

    def full(self, images: int) -> Refused:
        return Refused(503, f"{self.batcher.depth} images wait, {images} more find no room; come again", "queue")

    async def answer(self, request: Request, images: list[np.ndarray] | np.ndarray) -> Answer:
        """Queue the images, and leave the queue with the client."""
        passage = request.scope["passage"]
        try:
            job = self.batcher.submit(list(images), since=passage.began)
        except Full:
            raise self.full(len(images)) from None
        except Closed:
            raise Refused(503, "shutting down; nothing new is taken", "draining") from None
        done = asyncio.wrap_future(job.future)
        gone = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                raise ClientDisconnect
            answer = done.result()
        finally:
            gone.cancel()
            if not done.done():
                self.batcher.drop(job)
                done.cancel()
        passage.facts |= {
            "images": len(images), "operating_point": answer.point, "model_ms": round(answer.latency_ms, 3)
        }  # fmt: skip
        return answer


async def _left(request: Request) -> None:
    """Returns when the client has gone; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(
    served: Served, settings: Settings, *, signals: Callable[[State], AbstractContextManager[None]] | None = None
) -> FastAPI:
    """The ASGI application of a loaded model; `signals` surrounds its life (see server.py)."""
    state, metrics = State(), Metrics(served)
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

    def check(name: str, version: str | None) -> None:
        if name != spec.name:
            raise Refused(404, f"unknown model {name[:128]!r}; known: {spec.name}")
        if version not in (None, protocol.VERSION):
            raise Refused(404, f"unknown version {version[:128]!r} of {name}; known: {protocol.VERSION}")

    @app.get("/v2", **replies.json(openapi.ServerMetadata))
    async def server_metadata() -> Response:
        return _json({"name": "foveate", "version": __version__, "extensions": protocol.EXTENSIONS})

    @app.get("/v2/health/live", **replies.json(openapi.Live, open=True))
    async def live() -> Response:
        return _json({"live": True})

    @app.get("/v2/health/ready", **replies.json(openapi.Ready, 503, open=True))
    async def ready() -> Response:
        return _json({"ready": not state.draining}, 503 if state.draining else 200)

    @app.get("/v2/models/{name}", **replies.json(openapi.ModelMetadata, 404))
    async def model_metadata(name: str) -> Response:
        check(name, None)
        return _json(openapi.metadata(served, settings))

    @app.get("/v2/models/{name}/versions/{version}", **replies.json(openapi.ModelMetadata, 404))
    async def version_metadata(name: str, version: str) -> Response:
        check(name, version)
        return _json(openapi.metadata(served, settings))

    @app.get("/v2/models/{name}/ready", **replies.json(openapi.ModelReady, 404, 503, open=True))
    async def model_ready(name: str) -> Response:
        check(name, None)
        return _json({"name": spec.name, "ready": not state.draining}, 503 if state.draining else 200)

    @app.get("/v2/models/{name}/versions/{version}/ready", **replies.json(openapi.ModelReady, 404, 503, open=True))
    async def version_ready(name: str, version: str) -> Response:
        check(name, version)
        return await model_ready(name)

    @app.post("/v2/models/{name}/infer", **replies.infer(spec))
    async def infer(request: Request, name: str, header_length: Length = None) -> Response:
        check(name, None)
        _media(request, ("application/json", *RAW))
        async with service.bodies.receive(request) as body:
            small = (len(body) if header_length is None else header_length) <= INLINE
            ask = protocol.read(body, header_length, spec) if small else await service.in_pool(
                protocol.read, body, header_length, spec
            )  # fmt: skip
            images = await service.decoded(ask.photos) if ask.images is None else ask.images
            answer = await service.answer(request, images)
        content, length = protocol.write(ask, answer.logits, spec, answer.points, answer.latency_ms)
        if length is None:
            return Response(content, media_type="application/json")
        return Response(
            content, media_type="application/octet-stream", headers={"Inference-Header-Content-Length": str(length)}
        )

    @app.post("/v2/models/{name}/versions/{version}/infer", **replies.infer(spec))
    async def version_infer(
        request: Request, name: str, version: str, header_length: Length = None
    ) -> Response:  # fmt: skip
        check(name, version)
        return await infer(request, name, header_length)

    @app.post("/classify", **replies.classify())
    async def classify(
        request: Request, k: Annotated[int, Query(ge=1, le=spec.classes)] = min(5, spec.classes)
    ) -> Response:
        """The likeliest classes of one photograph."""
        kind = _media(request, ("image/", "multipart/form-data", *RAW))
        async with service.bodies.receive(request) as body:
            file = file_of(body, request.headers["content-type"]) if kind == "multipart/form-data" else bytes(body)
            answer = await service.answer(request, await service.decoded((file,)))
        likeliest = [{"class": name, "share": share} for name, share in top(answer.logits[0], spec.labels, k)]
        return _json({
            "id": request.scope["passage"].id, "top": likeliest, "operating_point": answer.point,
            "model_ms": round(answer.latency_ms, 3),
        })  # fmt: skip

    @app.get("/metrics", **replies.text(TYPE))
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type=TYPE)

    openapi.settle(app, settings.token is not None, {"name": spec.name, "version": protocol.VERSION})
    return app


def _media(request: Request, allowed: tuple[str, ...]) -> str:
    """The body's media type.

    Raises:
        Refused: 415 for one that is not allowed (a name that ends in a slash allows all of its kind).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not any(kind == a or (a.endswith("/") and kind.startswith(a)) for a in allowed):
        shown = ", ".join(f"{a}*" if a.endswith("/") else a for a in allowed if a)
        raise Refused(415, f"content-type is {kind[:80]!r}; allowed: {shown}")
    return kind


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

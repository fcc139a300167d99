"""One photograph in, what a person would be shown out: /classify, /embed or /segment, by the kind of output."""

import io
from typing import Annotated, Any

import numpy as np
import pydantic_core
from fastapi import FastAPI, Query, Request, Response

from foveate.evaluate.judges import shown
from foveate.evaluate.judges.showing import drawn, named, pixel_shares
from foveate.facts import Outputs
from foveate.serve.batcher import Answer
from foveate.serve.bodies import RAW, Refused, file_of, media_type
from foveate.serve.openapi import Classified, Embedded, Replies, Segmented
from foveate.serve.service import Service

PATHS: dict[Outputs, str] = {"classes": "/classify", "embedding": "/embed", "masks": "/segment"}
MOST_NEAR = 100  # photographs of the gallery in an answer


def add_photo_route(app: FastAPI, service: Service, replies: Replies) -> None:
    """The route of the model's kind; those of the others say which that is."""
    kind = service.spec.kind
    {"classes": _classify, "embedding": _embed, "masks": _segment}[kind](app, service, replies)
    for other in PATHS.values():
        if other != PATHS[kind]:
            app.post(other, include_in_schema=False)(_elsewhere(kind))


def _classify(app: FastAPI, service: Service, replies: Replies) -> None:
    spec, kind = service.spec, service.spec.kind
    most = len(named(spec.shape[0], spec.labels))

    @app.post(PATHS["classes"], **replies.photo(Classified))
    async def classify(request: Request, k: Annotated[int, Query(ge=1, le=most)] = min(5, most)) -> Response:
        """The likeliest classes of one photograph."""
        answer = await _answer(service, request)
        likeliest = [{"class": name, "share": share} for name, share in shown(kind, answer.outputs[0], spec.labels, k)]
        return _said(request, answer, {"top": likeliest})


def _embed(app: FastAPI, service: Service, replies: Replies) -> None:
    gallery = service.served.artefact.gallery
    most = min(MOST_NEAR, 0 if gallery is None else len(gallery))

    @app.post(PATHS["embedding"], **replies.photo(Embedded))
    async def embed(request: Request, k: Annotated[int, Query(ge=0, le=most)] = min(5, most)) -> Response:
        """The vector of one photograph, and the `k` nearest in the folder's gallery."""
        answer = await _answer(service, request)
        found: dict[str, Any] = {"embedding": answer.outputs[0].tolist()}
        if gallery is not None:
            near = await service.in_pool(gallery.nearest, answer.outputs[0], k)
            found["nearest"] = [{"name": name, "cosine": cosine} for name, cosine in near]
        return _said(request, answer, found)


def _segment(app: FastAPI, service: Service, replies: Replies) -> None:
    spec = service.spec

    @app.post(PATHS["masks"], **replies.photo(Segmented, png=True))
    async def segment(request: Request) -> Response:
        """The class of every pixel that the model sees of one photograph, as a PNG; the shares of the classes, where
        JSON is accepted."""
        answer = await _answer(service, request)
        mask = await service.in_pool(drawn, answer.outputs[0])
        if "application/json" in request.headers.get("accept", ""):
            shares = pixel_shares(mask, spec.shape[0], spec.labels)
            return _said(request, answer, {"shares": [{"class": name, "share": share} for name, share in shares]})
        headers = {"operating-point": str(answer.point), "model-ms": f"{answer.latency_ms:.3f}"}
        headers["queue-ms"] = f"{answer.queue_ms:.3f}"
        return Response(await service.in_pool(_png, mask, spec.shape[0]), media_type="image/png", headers=headers)


async def _answer(service: Service, request: Request) -> Answer:
    kind = media_type(request, ("image/", "multipart/form-data", *RAW))
    async with service.bodies.receive(request) as body:
        file = file_of(body, request.headers["content-type"]) if kind == "multipart/form-data" else bytes(body)
        return await service.answer(request, await service.decoded((file,)))


def _said(request: Request, answer: Answer, found: dict[str, Any]) -> Response:
    about = {"operating_point": answer.point, "model_ms": round(answer.latency_ms, 3)}
    about["queue_ms"] = round(answer.queue_ms, 3)
    said = {"id": request.scope["context"].id, **found, **about}
    return Response(pydantic_core.to_json(said), media_type="application/json")


def _png(mask: np.ndarray, classes: int) -> bytes:
    from foveate.report.masks import mask_image

    file = io.BytesIO()
    mask_image(mask, classes).save(file, "PNG")
    return file.getvalue()


def _elsewhere(kind: Outputs) -> Any:
    async def elsewhere() -> Response:
        raise Refused(404, f"this model answers with {kind}; allowed: POST {PATHS[kind]}")

    return elsewhere

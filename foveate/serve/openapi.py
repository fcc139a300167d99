"""What OpenAPI says of the routes: models of answers, bodies that are read by hand, and the model's metadata."""

import base64
import io
from typing import Any, Literal

from fastapi import FastAPI
from PIL import Image
from pydantic import BaseModel, Field

from foveate.serve import protocol
from foveate.serve.protocol import Spec
from foveate.serve.served import Served
from foveate.serve.settings import Settings

REASONS = {
    400: "not a request that can be answered",
    401: "no valid token",
    404: "unknown model or version",
    408: "the body came too slowly",
    413: "body or image too large",
    415: "media type or encoding that is not taken",
    500: "the model failed",
    503: "no room now, or shutting down; come again",
}
WORK = (400, 404, 408, 413, 415, 500, 503)
BINARY = {"type": "string", "format": "binary"}


class Error(BaseModel):
    error: str


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    live: bool


class Ready(BaseModel):
    ready: bool


class ModelReady(BaseModel):
    name: str
    ready: bool


class TensorMetadata(BaseModel):
    name: str
    datatype: Literal["FP32", "BYTES"]
    shape: list[int]


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any]


class Likely(BaseModel):
    class_: str = Field(alias="class")
    share: float


class _Photo(BaseModel):
    id: str
    operating_point: int
    model_ms: float
    queue_ms: float


class Classified(_Photo):
    top: list[Likely]


class Near(BaseModel):
    name: str
    cosine: float


class Embedded(_Photo):
    embedding: list[float]
    nearest: list[Near] | None = None


class Segmented(_Photo):
    shares: list[Likely]


class Replies:
    """Keyword arguments of a route, by what it answers."""

    def __init__(self, token: bool) -> None:
        self._token = token

    def json(self, model: Any, *statuses: int, open: bool = False) -> dict[str, Any]:
        """`model` with 200 (and with 503, where a health check says no)."""
        found = self._errors(*statuses, open=open)
        if 503 in found:
            found[503] = {"model": model, "description": "shutting down"}
        extra = {"security": []} if open and self._token else {}
        return {"responses": {200: {"model": model}, **found}, "openapi_extra": extra, "response_model": None}

    def text(self, media_type: str) -> dict[str, Any]:
        content = {media_type: {"schema": {"type": "string"}}}
        return {"responses": {200: _only(content, "metrics"), **self._errors()}, "response_model": None}

    def infer(self, spec: Spec) -> dict[str, Any]:
        """JSON or binary, both ways."""
        headers = {"Inference-Header-Content-Length": {"schema": {"type": "integer"}}}
        schema = _schema(protocol.InferRequest)
        output = schema["properties"]["outputs"]["anyOf"][0]["items"]["properties"]
        output["name"] = {"const": spec.output}
        if spec.kind != "classes":
            output["parameters"]["anyOf"][0]["properties"].pop("classification")
        content = {
            "application/json": {"schema": schema, "example": example(spec)},
            "application/octet-stream": {"schema": BINARY},
        }
        answer = {
            "application/json": {"schema": _schema(protocol.InferResponse)},
            "application/octet-stream": {"schema": BINARY},
        }
        return {
            "responses": {200: _only(answer, "the answer") | {"headers": headers}, **self._errors(*WORK)},
            "openapi_extra": {"requestBody": {"required": True, "content": content}},
            "response_model": None,
        }

    def photo(self, model: type[BaseModel], png: bool = False) -> dict[str, Any]:
        """A photograph as it is or in a form; answered with `model`, or also with a PNG."""
        form = {"type": "object", "properties": {"file": BINARY}, "required": ["file"]}
        content: dict[str, Any] = {k: {"schema": BINARY} for k in ("image/jpeg", "image/png", "image/webp")}
        content |= {
            "application/octet-stream": {"schema": BINARY},
            "multipart/form-data": {"schema": form, "encoding": {"file": {"contentType": "image/png"}}},
        }
        statuses = [s for s in WORK if s != 404]
        answer: dict[str, Any] = {"model": model}
        if png:
            answer["content"] = {"image/png": {"schema": BINARY}}
        return {
            "responses": {200: answer, **self._errors(*statuses)},
            "openapi_extra": {"requestBody": {"required": True, "content": content}},
            "response_model": None,
        }

    def _errors(self, *statuses: int, open: bool = False) -> dict[int, dict[str, Any]]:
        known = sorted({*statuses, *((401,) if self._token and not open else ())})
        return {s: {"model": Error, "description": REASONS[s]} for s in known}


def settle(app: FastAPI, token: bool, known: dict[str, str]) -> None:
    """Correct what FastAPI writes by itself: a request that is not valid gets 400 here, not 422; the token; what is
    `known` of a path's parameters.
    """
    schema = app.openapi()
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["schema"]["enum"] = [known[parameter["name"]]]
            for answer in operation["responses"].values():
                if "x-only" in answer:  # FastAPI adds JSON to what answers with something else
                    answer["content"] = answer.pop("x-only")
            if token:
                operation.setdefault("security", [{"bearer": []}])
    parts = schema.setdefault("components", {})
    for name in ("HTTPValidationError", "ValidationError"):
        parts.get("schemas", {}).pop(name, None)
    if token:
        parts["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    app.openapi_schema = schema


def metadata(served: Served, settings: Settings) -> dict[str, Any]:
    """Of the model, as the protocol has it; `parameters` say how `image` is preprocessed and what may be chosen."""
    spec, plan = served.spec, served.artefact.plan
    assert spec is not None
    return {
        "name": spec.name,
        "versions": [protocol.VERSION],
        "platform": f"foveate_{plan.target.runtime}",
        "inputs": [
            {"name": "image", "datatype": "FP32", "shape": [-1, spec.channels, *spec.size]},
            {"name": "photo", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": spec.output, "datatype": "FP32", "shape": [-1, *spec.shape]}],
        "parameters": {
            "preprocess": served.artefact.preprocess.model_dump(mode="json"),
            "give": "image, preprocessed as `preprocess` says; or photo, encoded files (base64 in JSON)",
            "precision": plan.target.precision, "batch": plan.target.batch, "note": served.artefact.card.note,
            "operating_points": [str(p) for p in served.frontier.points] if served.frontier else [plan.summary()],
            "slo_ms": settings.slo_ms, "point": None if settings.slo_ms is not None else served.points[0],
        },
    }  # fmt: skip


def example(spec: Spec) -> dict[str, Any]:
    """A request that is answered: a grey photograph of 8 x 8."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (128, 128, 128)).save(file, "PNG")
    data = [base64.b64encode(file.getvalue()).decode()]
    tensor = {"name": "photo", "shape": [1], "datatype": "BYTES", "data": data}
    asked = {"classification": min(3, spec.shape[0])} if spec.kind == "classes" else {"binary_data": False}
    output = {"name": spec.output, "parameters": asked}
    return {"id": "an example", "inputs": [tensor], "outputs": [output]}


def _only(content: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "x-only": content}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """With its definitions inlined: in a document of many, `$defs` of one would not be found."""
    schema = model.model_json_schema()
    found = schema.pop("$defs", {})

    def inlined(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inlined(found[value["$ref"].rpartition("/")[2]])
            return {k: inlined(v) for k, v in value.items()}
        return [inlined(v) for v in value] if isinstance(value, list) else value

    return inlined(schema)

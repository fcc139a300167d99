"""The Open Inference Protocol, version 2, with its binary tensor extension: bodies <-> numpy. No HTTP in here.

Written from the protocol's text (KServe's "Open Inference Protocol", Triton's binary data and classification
extensions). Inputs, one a request: `image` FP32 [n channels h w], preprocessed; or `photo` BYTES [n], encoded image
files (in JSON, where bytes cannot stand, as base64). Output, named by its kind: `logits` FP32 [n classes], or with the
parameter `classification` k BYTES [n k], "value:index:label"; `embedding` FP32 [n channels]; `masks` FP32
[n classes h w].
"""

import base64
import binascii
import math
import struct
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from foveate.errors import InputError
from foveate.evaluate import JUDGES
from foveate.facts import Outputs

VERSION = "1"
MOST_BYTES = 2**26  # of one answer's outputs, or one image's where that alone has more
Data = Annotated[Any, WithJsonSchema({"type": "array", "items": {}})]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class InputParameters(_Strict):
    binary_data_size: int | None = Field(default=None, ge=0)


class RequestInput(_Strict):
    name: Literal["image", "photo"]
    shape: list[int] = Field(min_length=1, max_length=8)
    datatype: Literal["FP32", "BYTES"]
    parameters: InputParameters | None = None
    data: Data = None


class OutputParameters(_Strict):
    binary_data: bool | None = None
    classification: int | None = Field(default=None, ge=1)


class RequestOutput(_Strict):
    name: Literal["logits", "embedding", "masks"]
    parameters: OutputParameters | None = None


class RequestParameters(_Strict):
    binary_data_output: bool | None = None


class InferRequest(_Strict):
    """An inference request; with binary tensors its JSON is followed by their bytes."""

    id: str | None = Field(default=None, max_length=256)
    parameters: RequestParameters | None = None
    inputs: list[RequestInput] = Field(min_length=1, max_length=1)
    outputs: list[RequestOutput] | None = Field(default=None, max_length=1)


class ResponseOutput(BaseModel):
    name: Literal["logits", "embedding", "masks"]
    datatype: Literal["FP32", "BYTES"]
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[float] | list[str] | None = None


class ResponseParameters(BaseModel):
    operating_point: int  # the fastest that one of the images was answered at
    operating_points: str | None = None  # of every image, where they differ
    latency_ms: float  # of the model calls that they were in
    queue_ms: float  # the longest that one of the images waited for its call


class InferResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: ResponseParameters
    outputs: list[ResponseOutput]


@dataclass(frozen=True)
class Spec:
    """What a request may ask of the model. size: (h, w) of an image; kind, shape: of its output; queue: images that
    may wait."""

    name: str
    size: tuple[int, int]
    kind: Outputs
    shape: tuple[int, ...]
    labels: tuple[str, ...] | None
    queue: int
    channels: int = 3

    @property
    def output(self) -> str:
        """The output's name."""
        return JUDGES[self.kind].words.output

    @property
    def images(self) -> int:
        """At most in one request."""
        return min(self.queue, max(1, MOST_BYTES // (4 * math.prod(self.shape))))

    @property
    def extensions(self) -> tuple[str, ...]:
        own = ("binary_tensor_data", "classification") if self.kind == "classes" else ("binary_tensor_data",)
        return (*own, "model_configuration", "model_repository", "statistics")


@dataclass(frozen=True)
class Ask:
    """A request, read: either `images` float32 [n 3 h w], or `photos`, n encoded files."""

    id: str | None
    images: np.ndarray | None
    photos: tuple[bytes, ...]
    binary: bool
    classification: int | None


def read(body: bytes | bytearray, header_length: int | None, spec: Spec) -> Ask:
    """The request in `body`; `header_length` is the length of its JSON where binary tensors follow.

    Raises:
        InputError: for anything that is not a request this model can answer.
    """
    if header_length is not None and not 0 <= header_length <= len(body):
        raise InputError(f"Inference-Header-Content-Length is {header_length}; allowed: 0 to {len(body)}, the body's")
    end = len(body) if header_length is None else header_length
    request = _request(bytes(memoryview(body)[:end]))
    given = request.inputs[0]
    size = given.parameters.binary_data_size if given.parameters else None
    if (size is None) == (given.data is None):
        raise InputError(f"input {given.name} needs either data or the parameter binary_data_size, and one of them")
    if (size or 0) != len(body) - end:
        raise InputError(
            f"input {given.name} has {size or 0} bytes by its parameter; {len(body) - end} follow the JSON"
        )
    raw = None if size is None else memoryview(body)[end:]
    images, photos = None, ()
    if given.name == "image":
        images = _image(given, raw, spec)
    else:
        photos = _photos(given, raw, spec)
    output = _output(request, spec)
    default = request.parameters.binary_data_output if request.parameters else None
    return Ask(
        id=request.id, images=images, photos=photos, classification=output.classification,
        binary=bool(default if output.binary_data is None else output.binary_data),
    )  # fmt: skip


def write(
    ask: Ask, outputs: np.ndarray, spec: Spec, points: tuple[int, ...], latency_ms: float, queue_ms: float = 0.0
) -> tuple[bytes, int | None]:
    """The answer [n ...] as a body (`points`: of every image), and its JSON's length where binary data follow."""
    output: dict[str, Any] = {"name": spec.output, "datatype": "FP32", "shape": list(outputs.shape)}
    raw = b""
    if ask.classification is not None:
        named = [_named(row, spec, ask.classification) for row in outputs]
        output |= {"datatype": "BYTES", "shape": [len(named), len(named[0])]}
        values: list[Any] = [text for row in named for text in row]
        raw = b"".join(struct.pack("<I", len(b)) + b for b in (v.encode() for v in values)) if ask.binary else b""
    else:
        values = [] if ask.binary else outputs.ravel().tolist()
        raw = np.ascontiguousarray(outputs, dtype="<f4").tobytes() if ask.binary else b""
    output |= {"parameters": {"binary_data_size": len(raw)}} if ask.binary else {"data": values}
    parameters: dict[str, Any] = {"operating_point": max(points), "latency_ms": round(latency_ms, 3)}
    parameters["queue_ms"] = round(queue_ms, 3)
    if len(set(points)) > 1:
        parameters["operating_points"] = " ".join(map(str, points))
    answer: dict[str, Any] = {"model_name": spec.name, "model_version": VERSION}
    answer |= {"parameters": parameters, "outputs": [output]}
    if ask.id is not None:
        answer["id"] = ask.id
    header = pydantic_core.to_json(answer)
    return header + raw, len(header) if ask.binary else None


def _request(text: bytes) -> InferRequest:
    try:
        value = pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as e:
        raise InputError(f"the request is not JSON: {e}") from None
    try:
        return InferRequest.model_validate(value)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise InputError(f"{where}: {first['msg']} (got {_brief(first['input'])})") from None


def _output(request: InferRequest, spec: Spec) -> OutputParameters:
    if not request.outputs:
        return OutputParameters()
    output = request.outputs[0]
    if output.name != spec.output:
        raise InputError(f"outputs.0.name is {output.name!r}; allowed: {spec.output!r}, what this model answers with")
    found = output.parameters or OutputParameters()
    if found.classification is not None and spec.kind != "classes":
        raise InputError(f"classification is for classes, {spec.output} has none; allowed here: binary_data")
    return found


def _brief(value: Any) -> str:
    text = ascii(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _image(given: RequestInput, raw: memoryview | None, spec: Spec) -> np.ndarray:
    wanted = [spec.channels, *spec.size]
    allowed = f"allowed: FP32 [n, {', '.join(map(str, wanted))}], n from 1 to {spec.images}"
    if given.datatype != "FP32":
        raise InputError(f"input image is {given.datatype}; {allowed}")
    if given.shape[1:] != wanted or not 1 <= given.shape[0] <= spec.images:
        raise InputError(f"input image has shape {_brief(str(given.shape))}; {allowed}")
    count = given.shape[0] * math.prod(wanted)
    if raw is not None:
        if len(raw) != 4 * count:
            raise InputError(f"input image has {len(raw)} bytes; its shape needs {4 * count}")
        values = np.frombuffer(raw, dtype="<f4")
    else:
        values = _numbers(given.data)
        if values.size != count:
            raise InputError(f"input image has {values.size} values; its shape needs {count}")
    if not np.isfinite(values).all():
        raise InputError("input image holds values that are not finite; allowed: finite FP32")
    return values.reshape(given.shape).astype(np.float32, copy=False)


def _numbers(data: Any) -> np.ndarray:
    """A list of numbers, flat or nested, as float32; what is too large for it becomes infinite."""
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError):
        values = None
    if values is None or values.dtype.kind not in "iuf":
        raise InputError("data of input image are not numbers, flat or nested evenly; allowed: those")
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _photos(given: RequestInput, raw: memoryview | None, spec: Spec) -> tuple[bytes, ...]:
    allowed = f"allowed: BYTES [n], n from 1 to {spec.images}"
    if given.datatype != "BYTES":
        raise InputError(f"input photo is {given.datatype}; {allowed}")
    if len(given.shape) != 1 or not 1 <= given.shape[0] <= spec.images:
        raise InputError(f"input photo has shape {_brief(str(given.shape))}; {allowed}")
    if raw is not None:
        photos = _strings(raw)
    else:
        texts = given.data if isinstance(given.data, list) else []
        if not all(isinstance(t, str) for t in texts):
            raise InputError("data of input photo are not strings; allowed: base64 of image files")
        try:
            photos = [base64.b64decode(t, validate=True) for t in texts]
        except (binascii.Error, ValueError):
            raise InputError("data of input photo are not base64; allowed: base64 of image files") from None
    if len(photos) != given.shape[0]:
        raise InputError(f"input photo has {len(photos)} elements; its shape needs {given.shape[0]}")
    return tuple(photos)


def _strings(raw: memoryview) -> list[bytes]:
    """Elements of a BYTES tensor: each four bytes of length, little-endian, then itself."""
    found, at = [], 0
    while at < len(raw):
        length = int.from_bytes(raw[at : at + 4], "little")
        if at + 4 + length > len(raw):
            raise InputError(f"input photo ends within element {len(found)}; it says {length} bytes")
        found.append(bytes(raw[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def _named(row: np.ndarray, spec: Spec, k: int) -> list[str]:
    order = np.argsort(-row, kind="stable")[:k]
    names = spec.labels and spec.labels[-len(row) :]  # of a yes or no, the yes
    return [f"{row[i]:.6f}:{i}" + (f":{names[i]}" if names else "") for i in order]

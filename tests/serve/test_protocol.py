"""Open Inference Protocol v2: what is written is read back, and what is no request is refused in one line."""

import base64
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import InputError
from foveate.serve.protocol import Ask, Spec, read, write

SPEC = Spec("tiny", (4, 6), "classes", (5,), ("a", "b", "c", "d", "e"), queue=8)


def body(tensor: dict, raw: bytes | None = None, **more: object) -> tuple[bytes, int | None]:
    text = json.dumps({"inputs": [tensor], **more}).encode()
    return (text, None) if raw is None else (text + raw, len(text))


def image(n: int = 2, **changed: object) -> dict:
    data = list(range(n * 72))
    return {"name": "image", "shape": [n, 3, 4, 6], "datatype": "FP32", "data": data} | changed


def without(tensor: dict, name: str, **more: object) -> dict:
    return {k: v for k, v in tensor.items() if k != name} | more


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=25)
@given(st.lists(finite, min_size=72, max_size=72), st.booleans(), st.booleans(), st.text(max_size=9))
def test_images_come_out_as_they_went_in(values, binary, nested, name):
    x = np.array(values, dtype=np.float32).reshape(1, 3, 4, 6)
    data = {"data": (x if nested else x.ravel()).tolist()}
    size = {"parameters": {"binary_data_size": x.nbytes}}
    tensor = without(image(1), "data", **(size if binary else data))
    ask = read(*body(tensor, x.tobytes() if binary else None, id=name), SPEC)
    assert ask.id == name
    np.testing.assert_array_equal(ask.images, x)


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.booleans())
def test_photographs_come_out_as_they_went_in(files, binary):
    raw = b"".join(struct.pack("<I", len(f)) + f for f in files)
    tensor: dict = {"name": "photo", "shape": [len(files)], "datatype": "BYTES"}
    if binary:
        tensor["parameters"] = {"binary_data_size": len(raw)}
    else:
        tensor["data"] = [base64.b64encode(f).decode() for f in files]
    assert read(*body(tensor, raw if binary else None), SPEC).photos == tuple(files)


@settings(max_examples=50)
@given(st.lists(finite, min_size=10, max_size=10), st.booleans())
def test_answers_say_their_logits(values, binary):
    logits = np.array(values, dtype=np.float32).reshape(2, 5)
    content, length = write(Ask("x", None, (), binary, None), logits, SPEC, (1, 0), 2.5)
    answer = json.loads(content[:length])
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("tiny", "1", "x")
    assert answer["parameters"] == {"operating_point": 1, "operating_points": "1 0", "latency_ms": 2.5, "queue_ms": 0.0}
    output = answer["outputs"][0]
    if binary:
        assert output["parameters"] == {"binary_data_size": 40}
        found = np.frombuffer(content[length:], "<f4")
    else:
        assert length is None
        found = np.array(output["data"], dtype=np.float32)
    np.testing.assert_array_equal(found.reshape(output["shape"]), logits)


@pytest.mark.parametrize("binary", [False, True])
def test_classification_names_the_likeliest(binary):
    logits = np.array([[0, 3, 1, 2, -1], [5, 4, 3, 2, 1]], dtype=np.float32)
    content, length = write(Ask(None, None, (), binary, 2), logits, SPEC, (0, 0), 1.0)
    output = json.loads(content[:length])["outputs"][0]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    named = ["3.000000:1:b", "2.000000:3:d", "5.000000:0:a", "4.000000:1:b"]
    if binary:
        assert content[length:] == b"".join(struct.pack("<I", len(n)) + n.encode() for n in named)
    else:
        assert output["data"] == named


@pytest.mark.parametrize(
    ("default", "own", "binary"),
    [(None, None, False), (True, None, True), (True, False, False), (None, True, True), (False, True, True)],
)
def test_an_output_says_itself_whether_it_is_binary_or_the_request_does(default, own, binary):
    more: dict = {"outputs": [{"name": "logits", "parameters": {"binary_data": own}}]} if own is not None else {}
    if default is not None:
        more["parameters"] = {"binary_data_output": default}
    assert read(*body(image(), **more), SPEC).binary is binary


def test_a_text_for_classes_beyond_the_model_is_cut():
    logits = np.zeros((1, 5), dtype=np.float32)
    assert json.loads(write(Ask(None, None, (), False, 99), logits, SPEC, (0,), 1)[0])["outputs"][0]["shape"] == [1, 5]


photo = {"name": "photo", "shape": [1], "datatype": "BYTES"}
BAD = {
    "no JSON": (b"{", None, "not JSON"),
    "NaN": (b'{"inputs": [{"data": [NaN]}]}', None, "not JSON"),
    "deep": (b"[" * 100_000, None, "not JSON"),
    "bytes": (b"\xff\xfe\x00", None, "not JSON"),
    "empty": (b"", None, "not JSON"),
    "a list": (b"[]", None, "the request"),
    "no inputs": (b"{}", None, "inputs"),
    "an empty list": (b'{"inputs": []}', None, "inputs"),
    "name": (*body(image(name="pixels")), "inputs.0.name"),
    "output": (*body(image(), outputs=[{"name": "probabilities"}]), "outputs.0.name"),
    "classification": (
        *body(image(), outputs=[{"name": "logits", "parameters": {"classification": 0}}]), "classification",
    ),
    "id": (*body(image(), id=7), "id"),
    "datatype": (*body(image(datatype="FP16")), "inputs.0.datatype"),
    "bytes as image": (*body(image(datatype="BYTES")), r"image is BYTES; allowed: FP32 \[n, 3, 4, 6\]"),
    "rank": (*body(image(shape=[72])), "image has shape"),
    "size": (*body(image(shape=[2, 3, 6, 4])), "image has shape"),
    "none": (*body(image(0)), "image has shape"),
    "too many": (*body(image(9)), r"n from 1 to 8"),
    "negative": (*body(image(shape=[-2, 3, 4, 6])), "image has shape"),
    "huge": (*body(image(shape=[10**30, 3, 4, 6])), "image has shape|shape"),
    "fractions": (*body(image(shape=[1.5, 3, 4, 6])), "inputs.0.shape"),
    "too few values": (*body(image(data=[1.0])), "1 values; its shape needs 144"),
    "ragged": (*body(image(data=[[1, 2], [3]])), "not numbers"),
    "texts": (*body(image(data=["1"] * 144)), "not numbers"),
    "nulls": (*body(image(data=[None] * 144)), "not numbers"),
    "an object": (*body(image(data={"a": 1})), "not numbers"),
    "large numbers": (*body(image(data=[1e39] * 144)), "not finite"),
    "larger numbers": (*body(image(data=[10**400] * 144)), "not numbers|not JSON"),
    "neither": (*body(without(image(), "data")), "needs either data"),
    "both": (*body(image(parameters={"binary_data_size": 4}), b"1234"), "needs either data"),
    "bytes that nobody claims": (*body(image(), b"1234"), "4 follow the JSON"),
    "fewer bytes": (*body(without(image(), "data", parameters={"binary_data_size": 576}), b"12"), "2 follow the JSON"),
    "bytes for another shape": (
        *body(without(image(), "data", parameters={"binary_data_size": 4}), b"1234"), "its shape needs 576",
    ),
    "infinite": (
        *body(without(image(1), "data", parameters={"binary_data_size": 288}), struct.pack("<f", np.inf) * 72),
        "not finite",
    ),
    "header length": (b"{}", 5, "allowed: 0 to 2"),
    "photo as image": (*body(photo | {"datatype": "FP32", "data": ["AA=="]}), "photo is FP32; allowed: BYTES"),
    "no base64": (*body(photo | {"data": ["é*"]}), "base64"),
    "numbers": (*body(photo | {"data": [1]}), "not strings"),
    "photo shape": (*body(photo | {"shape": [1, 1], "data": ["AA=="]}), "photo has shape"),
    "two for one": (*body(photo | {"data": ["AA==", "AA=="]}), "2 elements; its shape needs 1"),
    "ends within": (*body(photo | {"parameters": {"binary_data_size": 6}}, b"\x09\0\0\0ab"), "ends within element 0"),
    "half a length": (*body(photo | {"parameters": {"binary_data_size": 2}}, b"\x01\0"), "ends within element 0"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_request_is_refused_in_one_line(kind):
    text, length, message = BAD[kind]
    with pytest.raises(InputError, match=message) as refused:
        read(text, length, SPEC)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150)
@given(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["image", "photo"]), "datatype": st.sampled_from(["FP32", "BYTES"]),
         "shape": st.sampled_from([[1], [1, 3, 4, 6]]) | json_values},
        optional={"data": json_values, "parameters": json_values},
    ),
    st.binary(max_size=20), st.none() | st.integers(0, 400),
)  # fmt: skip
def test_no_body_raises_anything_else(tensor, tail, length):
    for text in (json.dumps({"inputs": [tensor]}).encode(), tail):
        try:
            read(text + tail, length, SPEC)
        except InputError:
            continue

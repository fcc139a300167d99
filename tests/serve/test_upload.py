"""Photographs sent as they are: read and classified, or refused in one line, before their pixels cost anything."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.asked import photo, refused
from support.images import write_odd
from support.served import CLASSES, PREPROCESS, expected


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims that size, and which is well formed up to its pixels."""
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


@pytest.mark.parametrize("way", ["image/png", "application/octet-stream", "", "form"])
def test_a_photograph_is_classified(ask, way):
    data = photo()
    if way == "form":
        request: dict[str, Any] = {"files": {"other": ("a", b"a"), "file": ("a.png", data, "image/png")}}
    else:
        request = {"content": data, "headers": {"content-type": way} if way else {}}
    answer = ask("POST", "/classify?k=3", **request)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    logits = expected(PREPROCESS(Image.open(io.BytesIO(data)))[None], 0)[0]
    shares = np.exp(logits) / np.exp(logits).sum()
    assert [t["class"] for t in found["top"]] == [CLASSES[i] for i in np.argsort(-logits)[:3]]
    assert [t["share"] for t in found["top"]] == pytest.approx(sorted(shares, reverse=True)[:3], abs=1e-4)
    assert found["operating_point"] == 0
    assert found["id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("content", "kind", "status", "words"),
    [
        (b"", "image/png", 400, ("empty",)),
        (b"no image at all", "image/png", 400, ("not an image",)),
        (photo()[:-200], "image/png", 400, ("truncated",)),
        (photo(kind="JPEG")[:300], "image/jpeg", 400, ("truncated",)),
        (bomb(50_000, 50_000), "image/png", 413, ("too many pixels", "50,000,000")),
        (bomb(8_000, 8_000), "image/png", 413, ("8000x8000", "50,000,000")),
        (bomb(400_000, 400_000), "image/png", 413, ("pixels",)),
        (photo((60, 4)), "image/png", 400, ("60x4", "8 px")),
        (photo(), "text/plain", 415, ("text/plain",)),
        (b"a", "multipart/form-data", 400, ("boundary",)),
        (b"a", "multipart/form-data; boundary=x", 400, ("damaged",)),
        (b"--x\r\n\r\na\r\n", "multipart/form-data; boundary=x", 400, ("last boundary",)),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\na\r\n--x--\r\n', "multipart/form-data; boundary=x",
            400, ("0 fields named file",),
        ),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else str(v) if isinstance(v, int) else "",
)  # fmt: skip
def test_what_is_no_photograph_is_refused(ask, content, kind, status, words):
    refused(ask("POST", "/classify", content=content, headers={"content-type": kind}), status, *words)


@pytest.mark.parametrize("kind", ["alpha", "grey16", "rotated"])
def test_odd_photographs_are_read(ask, tmp_path, kind):
    data = write_odd(kind, tmp_path).read_bytes()
    assert ask("POST", "/classify", content=data).status_code == 200


@pytest.mark.parametrize("k", ["0", "6", "many"])
def test_k_is_within_the_classes(ask, k):
    refused(ask("POST", f"/classify?k={k}", content=photo()), 400, "query.k")


def test_pixels_are_limited_before_they_are_decoded(ask):
    small = {"max_megapixels": 0.003}
    refused(ask("POST", "/classify", small, content=photo((64, 48))), 413, "64x48", "3,000")
    assert ask("POST", "/classify", small, content=photo((60, 50))).status_code == 200

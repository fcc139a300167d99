"""What a server in this process is asked, and what its refusals look like."""

import io
from typing import Any

import httpx
import numpy as np
from PIL import Image


def tensor(x: np.ndarray, **more: object) -> dict[str, Any]:
    return {"name": "image", "shape": list(x.shape), "datatype": "FP32", "data": x.tolist()} | more


def photo(size: tuple[int, int] = (64, 48), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def refused(answer: httpx.Response, status: int, *words: str) -> None:
    """The status, and one line of JSON that holds `words`."""
    assert answer.status_code == status, answer.text
    line = answer.json()["error"]
    assert "\n" not in line
    for word in words:
        assert word in line, line

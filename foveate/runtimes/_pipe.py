"""What goes over a worker's pipes: a line of JSON, then the arrays that it announces, as raw bytes."""

import json
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np


def send(pipe: BinaryIO, header: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    head = header | {"arrays": [[a.dtype.str, a.shape] for a in arrays]}
    pipe.write(json.dumps(head).encode() + b"\n")
    for a in arrays:
        pipe.write(np.ascontiguousarray(a).data.cast("B") if a.size else b"")
    pipe.flush()


def receive(pipe: BinaryIO) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Raises EOFError where the other side is gone."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    header, arrays = json.loads(line), []
    for dtype, shape in header.pop("arrays"):
        a = np.empty(shape, np.dtype(dtype))
        if a.size and pipe.readinto(a.data.cast("B")) != a.nbytes:  # type: ignore[attr-defined]
            raise EOFError
        arrays.append(a)
    return header, arrays

"""Photographs that others are compared with: their names, and what an embedding model answered to them.

Beside a model: gallery.safetensors, one tensor `vectors` float32 [S C] and no code; the names stand in model.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from foveate.errors import InputError
from foveate.evaluate.judges import nearest
from foveate.files import replacing
from foveate.staging import spelled

FILE = "gallery.safetensors"
MOST = 100_000  # photographs
MOST_BYTES = 2**30
MOST_NAME = 1024  # characters


@dataclass(frozen=True, eq=False)
class Gallery:
    """names: of the photographs, as they are shown. vectors: float32 [S C].

    Raises:
        InputError: where they do not fit each other, are not finite, or are too many.
    """

    names: tuple[str, ...]
    vectors: np.ndarray

    def __post_init__(self) -> None:
        shape = self.vectors.shape
        if len(shape) != 2 or not 1 <= shape[0] <= MOST or not shape[1]:
            raise InputError(f"a gallery of vectors {list(shape)}; allowed: [n, channels], n from 1 to {MOST:,}")
        if len(self.names) != shape[0]:
            raise InputError(f"a gallery of {shape[0]} vectors and {len(self.names)} names; allowed: one each")
        if self.vectors.dtype != np.float32 or not np.isfinite(self.vectors).all():
            raise InputError(f"a gallery of {self.vectors.dtype}; allowed: float32, all of it finite")
        for name in self.names:
            if not 0 < len(name) <= MOST_NAME:
                raise InputError(f"a gallery's name has {len(name)} characters; allowed: 1 to {MOST_NAME}")

    def __len__(self) -> int:
        return len(self.names)

    def nearest(self, vector: np.ndarray, k: int = 5) -> list[tuple[str, float]]:
        """The `k` photographs with the largest cosine to a vector [C], nearest first.

        Raises:
            InputError: a vector of another length.
        """
        order, cosines = nearest(vector[None], self.vectors, k)
        return [(self.names[i], float(c)) for i, c in zip(order[0], cosines[0], strict=True)]

    def save(self, folder: Path) -> Path:
        """Write the vectors; the names are for model.json."""
        from safetensors.numpy import save_file

        with replacing(folder / FILE) as part:
            save_file({"vectors": np.ascontiguousarray(self.vectors)}, part)
        return folder / FILE

    @classmethod
    def load(cls, folder: Path, names: Sequence[str]) -> Self:
        """
        Raises:
            InputError: no such file, one that is damaged, or with another shape than its names say.
        """
        from safetensors import SafetensorError, safe_open

        path = folder / FILE
        try:
            if path.exists() and not path.is_file():
                raise InputError(f"{path} is no regular file")
            if path.stat().st_size > MOST_BYTES:
                raise InputError(f"{path} has {path.stat().st_size:,} bytes; allowed: at most {MOST_BYTES:,}")
            with spelled(path) as at, safe_open(at, framework="numpy") as file:
                if list(file.keys()) != ["vectors"]:
                    raise InputError(f"{path} holds {list(file.keys())[:3]}; allowed: one tensor, vectors")
                found = file.get_slice("vectors")
                if found.get_dtype() != "F32" or found.get_shape()[:1] != [len(names)]:
                    raise InputError(
                        f"{path} holds {found.get_dtype()} {found.get_shape()}; allowed: F32 [{len(names)}, channels], "
                        f"a row for each name in model.json"
                    )
                return cls(tuple(names), file.get_tensor("vectors"))
        except (OSError, SafetensorError) as e:
            raise InputError(f"cannot read {path}: {' '.join(str(e).split())}") from None

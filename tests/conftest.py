"""What every test may use: the bundled photographs, the data folder, images with something wrong, a private cache."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.images import write_odd


@pytest.fixture(autouse=True, scope="session")
def _private_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this run's own, which subprocesses inherit, and one torch thread: the tests' tensors are tiny."""
    import torch

    before = {name: os.environ.get(name) for name in ("FOVEATE_CACHE", "HF_HUB_OFFLINE")}
    os.environ["FOVEATE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(1)
    yield
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real images and weights; tests that use it carry the mark `data`."""
    root = os.environ.get("FOVEATE_DATA")
    if not root:
        pytest.skip("FOVEATE_DATA is unset: it names the folder with the real images and weights")
    return Path(root)


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Five of the bundled photographs, of five classes."""
    import foveate

    folders = sorted((Path(foveate.__file__).parent / "assets" / "photos").iterdir())
    return [sorted(folder.glob("*.jpg"))[0] for folder in folders[::2]]


@pytest.fixture
def odd_image(tmp_path: Path) -> Callable[[str], Path]:
    """`odd_image(kind)` writes an image of that kind and returns its path; kinds: BAD_IMAGES and ODD_IMAGES.

    The good ones are 64x48 (w x h), dark red above and bright green below, so that a test can see what became of them.
    """

    def write(kind: str) -> Path:
        folder = tmp_path / "odd"
        folder.mkdir(exist_ok=True)
        return write_odd(kind, folder)

    return write

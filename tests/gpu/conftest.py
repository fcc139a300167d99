"""Every test in this folder needs a GPU: without one it is skipped, with the reason that the runtimes give."""

from pathlib import Path

import pytest
import torch

from foveate.runtimes import RUNTIMES

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Mark them; what libraries warn of on a machine that was never seen before is no failure."""
    for item in items:
        if HERE in Path(item.fspath).parents:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(autouse=True)
def _gpu(monkeypatch):
    """A GPU, and float32 that is float32: torch's convolutions use TF32 by default, whose error may turn a choice."""
    if (reason := RUNTIMES["eager"].why_not(device="cuda")) is not None:
        pytest.skip(reason)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before

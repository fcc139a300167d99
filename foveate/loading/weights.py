"""Files of weights: read with care, compared with the model by name and shape, checked for NaN and infinity."""

import argparse
import hashlib
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from foveate.errors import InputError
from foveate.loading.checkpoint import Tensors, tensors_of
from foveate.loading.paths import check_weights_file
from foveate.staging import spelled

HARMLESS = (argparse.Namespace,)  # what training scripts put beside the tensors: it holds values and runs nothing
UNUSED = "num_batches_tracked"  # a count that batch norm keeps and nothing reads; exporters leave it out


def read_weights(path: Path | str, *, allow_pickle: bool = False) -> Tensors:
    """The tensors of a file, by name, and what was done to have them.

    A pickle is read by torch's restricted unpickler, which takes tensors and plain values and runs no code of the
    file's; with `allow_pickle` what it refuses is unpickled as it stands.

    Raises:
        InputError: no such file, not a whole one, no state dict, or a pickle that needs `allow_pickle`.
    """
    path = check_weights_file(path)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            with spelled(path) as at:
                return Tensors(load_file(at))
        except (SafetensorError, OSError) as e:
            raise InputError(f"weights {path} are not a whole safetensors file: {first_line(e)}") from None
    content = _unpickled(path, allow_pickle)
    try:
        return tensors_of(content)
    except InputError as e:
        raise InputError(f"weights {path} {e}") from None


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
        raise InputError(f"{where} do not fit the model: {found}{hint(wrong)}")
    check_finite(state, where)
    model.load_state_dict({k: v for k, v in own.items() if k.endswith(UNUSED)} | dict(state))
    return model


def hint(wrong: Mismatches) -> str:
    """What to do, where what is missing or too many says it."""
    only = lambda keys, *parts: bool(keys) and all(key.partition(".")[0] in parts for key in keys)
    if only(wrong.missing, "head", "fc", "head_dist") and not wrong.unexpected and not wrong.shapes:
        return "; the file has no classifier: num_classes=0 makes the model embed"
    if "fc_norm.weight" in wrong.unexpected and "norm.weight" in wrong.missing:
        return "; the file was trained with another pooling: global_pool=avg"
    if "norm.weight" in wrong.unexpected and "fc_norm.weight" in wrong.missing:
        return "; the file was trained with another pooling: global_pool=token"
    if only(wrong.shapes, "head", "fc", "head_dist") and not wrong.missing and not wrong.unexpected:
        return "; leave num_classes out, and it is read off the file"
    return ""


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


def _unpickled(path: Path, trusted: bool) -> object:
    refused = f"weights {path} cannot be unpickled"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an unusual pickle is unusual: what it holds is checked
        try:
            with torch.serialization.safe_globals(list(HARMLESS)), spelled(path) as at:
                return torch.load(at, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as e:
            if not trusted:
                asked = re.search(r"(?:GLOBAL|global|type) ([\w.]+\.[\w.]+)", str(e))
                raise InputError(
                    f"{refused} without running code{f' ({asked[1]})' if asked else ''}; allow that with "
                    "--allow-pickle if you trust its origin"
                ) from None
        except Exception as e:  # a broken file can raise anything
            if not trusted:
                raise InputError(f"{refused}: {first_line(e)}") from None
        try:
            with spelled(path) as at:
                return torch.load(at, map_location="cpu", weights_only=False)
        except Exception as e:  # a pickle can raise anything
            raise InputError(f"{refused}: {first_line(e)}") from None


def first_line(e: BaseException) -> str:
    """The first line of an error's message."""
    return (str(e).strip() or type(e).__name__).splitlines()[0]

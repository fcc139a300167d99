"""Hugging Face's vision encoders by hub id or from a folder: model, preprocessing and class names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from foveate.errors import InputError, NotAvailable
from foveate.files import read_text
from foveate.loading.hub import no_waiting
from foveate.loading.suggest import nearest_names
from foveate.loading.weights import first_line

# model_type -> (an architecture that a checkpoint names, the class to load) ..., and the class where it names none.
CLASSES: dict[str, tuple[tuple[tuple[str, str], ...], str]] = {
    "vit": ((("ViTForImageClassification", "ViTForImageClassification"),), "ViTModel"),
    "deit": (
        (
            ("DeiTForImageClassificationWithTeacher", "DeiTForImageClassificationWithTeacher"),
            ("DeiTForImageClassification", "DeiTForImageClassification"),
        ),
        "",
    ),
    "dinov2": ((), "Dinov2Model"),
    "dinov2_with_registers": ((), "Dinov2WithRegistersModel"),
    "dinov3_vit": ((), "DINOv3ViTModel"),
    "clip": ((), "CLIPVisionModelWithProjection"),
    "clip_vision_model": ((("CLIPVisionModel", "CLIPVisionModel"),), "CLIPVisionModelWithProjection"),
    "siglip": ((("SiglipForImageClassification", "SiglipForImageClassification"),), "SiglipVisionModel"),
    "siglip_vision_model": ((), "SiglipVisionModel"),
}
REFUSED = {
    "Dinov2ForImageClassification": "its head reads the class token and the mean of the patches together",
    "Dinov2WithRegistersForImageClassification": "its head reads the class token and the mean of the patches together",
    "CLIPForImageClassification": "its head averages tokens before their norm",
}
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def from_transformers(
    name: str, *, random_weights: bool = False, allow_pickle: bool = False, seed: int = 0
) -> tuple[nn.Module, dict[str, Any], tuple[str, ...] | None]:
    """The encoder as transformers makes it, how photographs become its input, and its class names.

    No code that comes with a checkpoint is run.

    Args:
        name: a folder or a hub id.

    Raises:
        NotAvailable: transformers is not installed, or the hub cannot be reached and its cache has no such model.
        InputError: a kind of model that is not known here, or a damaged folder.
    """
    try:
        import transformers as hf
    except ImportError:
        raise NotAvailable(
            f"{name} is a model of transformers', which is not installed: pip install 'foveate[vlm]'"
        ) from None
    local = Path(name).is_dir()
    where: dict[str, Any] = {"local_files_only": True} if local else {}
    with no_waiting():
        try:
            config: Any = hf.AutoConfig.from_pretrained(name, trust_remote_code=False, **where)
            cls = getattr(hf, class_of(config, name))
            if random_weights:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    model = cls(of_vision(config, cls))
            else:
                model = cls.from_pretrained(
                    name,
                    config=of_vision(config, cls),
                    dtype=torch.float32,
                    use_safetensors=None if allow_pickle else True,
                    **where,
                )
            described = processor_of(name, where)
        except InputError:
            raise
        except Exception as e:  # whatever the hub's client, the file system or a damaged file raise
            raise _failed(name, local, e) from None
    if config.model_type.startswith("dinov2"):  # positions are made for the size of the photographs
        model.config.image_size = size_of(described) or model.config.image_size
    return model.eval(), preprocess_of(described, name), names_of(config)


def class_of(config: Any, name: str) -> str:
    """Which class of transformers' to load.

    Raises:
        InputError: one that is not known here.
    """
    kind, architectures = config.model_type, list(config.architectures or ())
    for architecture in architectures:
        if architecture in REFUSED:
            raise InputError(f"{name} is a {architecture}: {REFUSED[architecture]}, which is not supported")
    if kind not in CLASSES:
        raise InputError(f"{name} is a transformers model ({kind}); known here: {', '.join(CLASSES)}")
    named, otherwise = CLASSES[kind]
    found = next((cls for architecture, cls in named if architecture in architectures), otherwise)
    if not found:
        raise InputError(f"{name} is a {kind} without a classifier, which is not supported")
    return found


def of_vision(config: Any, cls: Any) -> Any:
    """The image tower's part of a configuration that has a text tower beside it."""
    own = getattr(config, "vision_config", None)
    if own is None or cls.config_class is not type(own):
        return config
    if hasattr(config, "projection_dim"):  # of both towers, and said there alone by some checkpoints
        own.projection_dim = config.projection_dim
    return own


def processor_of(name: str, where: Mapping[str, Any]) -> dict[str, Any]:
    """What the checkpoint says of photographs: preprocessor_config.json, or an empty one."""
    from transformers.utils.hub import cached_file

    for file, inside in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        found = cached_file(name, file, _raise_exceptions_for_missing_entries=False, **where)
        if found is None:
            continue
        raw = json.loads(read_text(Path(found)))
        raw = raw if inside is None else raw.get(inside)
        if isinstance(raw, dict):
            return raw
    return {}


def size_of(described: Mapping[str, Any]) -> int | None:
    """The side of the square that photographs are made into, where it is said."""
    wanted = "crop_size" if described.get("do_center_crop") else "size"
    sides = _sides(described.get(wanted))
    return sides[0] if sides and sides[0] == sides[1] else None


def preprocess_of(described: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Fields of `Preprocess` from an image processor's.

    Raises:
        InputError: something that `Preprocess` cannot do.
    """
    if not described:
        return {}
    fields: dict[str, Any] = {}
    if described.get("do_normalize", True):
        fields |= {k: tuple(described[v]) for k, v in (("mean", "image_mean"), ("std", "image_std")) if v in described}
    else:
        fields |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    scale = described.get("rescale_factor", 1 / 255)
    if not described.get("do_rescale", True) or abs(scale * 255 - 1) > 1e-3:
        raise InputError(f"{name}: its pixels are scaled by {scale} and not by 1/255, which is not supported")
    resample = described.get("resample", 2)
    if resample not in RESAMPLING:
        raise InputError(f"{name}: resample {resample!r}; known here: {RESAMPLING}")
    fields["interpolation"] = RESAMPLING[resample]
    size, crops = described.get("size"), bool(described.get("do_center_crop"))
    shortest = "shortest_edge" in size if isinstance(size, dict) else crops  # of a number: as CLIP's, or as ViT's
    before, after = _sides(size), _sides(described.get("crop_size")) if crops else None
    fields["crop_mode"] = "center" if shortest else "squash"
    fields["crop_pct"] = after[0] / before[0] if before and after and described.get("do_resize", True) else 1.0
    return fields


def _sides(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and "shortest_edge" in size:
        return size["shortest_edge"], size["shortest_edge"]
    if isinstance(size, dict) and {"height", "width"} <= size.keys():
        return size["height"], size["width"]
    return None


def names_of(config: Any) -> tuple[str, ...] | None:
    """Class names, where the checkpoint has more than numbers for them."""
    names = getattr(config, "id2label", None) or {}
    found = tuple(str(names[i]) for i in range(len(names)) if i in names)
    numbered = all(name == f"LABEL_{i}" for i, name in enumerate(found))
    return None if not found or len(found) != len(names) or numbered else found


def _failed(name: str, local: bool, error: Exception) -> InputError:
    if local:
        return InputError(f"{name}: transformers cannot load it: {first_line(error)[:200]}")
    return NotAvailable(
        f"cannot get {name} from Hugging Face's hub: no network or no such model, and not in the cache; "
        f"of timm's models {nearest_names(name)}"
    )

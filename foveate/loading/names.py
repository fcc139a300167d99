"""How people name a model, and what each name leads to: an architecture, its options, and where its weights are."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from foveate.errors import InputError, NotAvailable
from foveate.files import read_text
from foveate.loading.bundled import BUNDLED
from foveate.loading.card import Card
from foveate.loading.hub import no_waiting
from foveate.loading.suggest import nearest_names
from foveate.loading.weights import first_line
from foveate.plans import Kwarg

HUB = re.compile(
    r"(?:hf[-_]hub:|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)(?P<id>[^/?#]+/[^/?#@]+)", re.IGNORECASE
)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FILES = ("model.safetensors", "pytorch_model.bin")  # of a folder as timm's `save_for_hf` writes it


@dataclass(frozen=True)
class Source:
    """What a name leads to."""

    name: str  # of the architecture
    options: Mapping[str, Kwarg] = field(default_factory=lambda: MappingProxyType({}))
    weights: Path | None = None  # a file that comes with the name
    card: Card | None = None  # of a run of ours
    config: Mapping[str, Any] | None = None  # timm's `pretrained_cfg`: preprocessing and class names
    shown: str | None = None  # under which a plan finds it again, if not `name`
    transformers: str | None = None  # the folder or hub id of a model of transformers'


def find(name: str, *, weightless: bool = False) -> Source:
    """From any of: `clothing_vit`; a timm name; `hf-hub:ORG/NAME` or its address; `timm/NAME`; `ORG/NAME` of a vision
    encoder of transformers'; a folder that foveate trained, or timm or transformers wrote, with `local-dir:` before it
    or without.

    Args:
        weightless: no weights are needed, only what describes the model.

    Raises:
        InputError: for a name that leads nowhere; says which does.
        NotAvailable: the hub cannot be reached, and its cache has no such model.
    """
    if name == BUNDLED:
        return Source(name)
    prefix, _, rest = name.partition(":")
    if prefix.replace("_", "-").lower() == "local-dir":
        return _folder(Path(rest))
    if (found := HUB.match(name)) is not None:
        return _hub(found["id"], weightless)
    if (path := Path(name)).is_dir() and name:
        return _folder(path)
    if path.is_file() or path.suffix in (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".onnx"):
        raise InputError(
            f"{name} is a file; allowed: a model's name, and the file with --weights: "
            f"foveate fit vit_tiny_patch16_224 --weights {name}"
        )
    if "/" in name:
        owner, _, model = name.rpartition("/")
        if owner == "timm":
            return Source(model)
        if HUB_ID.fullmatch(name):
            return Source(name, shown=name, transformers=name)
        raise InputError(f"unknown model {name!r}: no such folder and no hub id; {nearest_names(name)}")
    return Source(name)


def _hub(model_id: str, weightless: bool) -> Source:
    owner, _, name = model_id.partition("/")
    if owner == "timm":
        return Source(name)  # timm knows it without asking
    from timm.models import _hub as hub

    try:
        with no_waiting():
            config, arch, options = hub.load_model_config_from_hf(model_id)
            file = None if weightless else _first_there(model_id)
    except InputError:
        raise
    except Exception as e:  # whatever the hub's client, its cache or timm's parsing raise
        if _of_transformers(model_id):
            return Source(model_id, shown=f"hf-hub:{model_id}", transformers=model_id)
        raise NotAvailable(
            f"cannot get hf-hub:{model_id}: no network, not in the cache, or no timm model ({first_line(e)[:80]})"
        ) from None
    return Source(arch, _options(config, options), file, None, config, f"hf-hub:{model_id}")


def _of_transformers(model_id: str) -> bool:
    """Has the hub, or its cache, a configuration of transformers' under this name?"""
    from timm.models import _hub as hub

    try:
        with no_waiting():
            return isinstance(_json(Path(hub.download_from_hf(model_id, "config.json"))).get("model_type"), str)
    except Exception:  # no network or no such file
        return False


def _first_there(model_id: str) -> Path:
    from timm.models import _hub as hub

    for file in FILES[:-1]:
        try:
            return Path(hub.download_from_hf(model_id, file))
        except Exception:  # not there, or no network: the last one's error is told
            continue
    return Path(hub.download_from_hf(model_id, FILES[-1]))


def _folder(folder: Path) -> Source:
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}")
    if (folder / "plan.json").is_file():
        raise InputError(f"{folder} is a fitted model: it is run, served and evaluated, and not fitted again")
    described = folder / "config.json"
    if any(file.is_file() for file in Card.files(folder)) or not described.is_file():
        card = Card.read(folder)
        if card.model is None:
            raise InputError(f"{folder}: its recipe made the model in Python; only a model with a name can be loaded")
        options = {**card.options, "num_classes": card.count, "img_size": card.image_size}
        return Source(card.model, options, Card.files(folder).weights, card)
    raw = _json(described)
    if "architecture" not in raw:
        if isinstance(raw.get("model_type"), str):
            return Source(str(folder), shown=f"local-dir:{folder.resolve()}", transformers=str(folder))
        raise InputError(
            f"{described} describes no model: it has no architecture and no model_type; allowed: a folder as timm's "
            "save_for_hf or transformers' save_pretrained writes it"
        )
    from timm.models import _hub as hub

    try:
        config, arch, model_args = hub.load_model_config_from_path(folder)
    except Exception as e:  # a file that others wrote: timm's parsing may stumble over anything in it
        raise InputError(f"{described} is damaged: {first_line(e)}") from None
    file = next((folder / f for f in FILES if (folder / f).is_file()), None)
    if file is None:
        raise InputError(f"{folder} has no weights; allowed: one of {', '.join(FILES)} beside config.json")
    return Source(arch, _options(config, model_args), file, None, config)


def _json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(read_text(path))
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path} is damaged: {first_line(e)}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path} is damaged: it holds a {type(raw).__name__}, not an object")
    return raw


def _options(config: Mapping[str, Any], model_args: Mapping[str, Any]) -> dict[str, Kwarg]:
    """Arguments of the model as timm would pass them on; what they may be is checked with all others."""
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in model_args.items()}
    if type(count := config.get("num_classes")) is int:
        options.setdefault("num_classes", count)
    return options

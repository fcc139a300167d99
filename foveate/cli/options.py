"""Options that several commands take, alike in name, help and meaning."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from foveate.errors import InputError
from foveate.target import Target

ModelArg = Annotated[
    str, typer.Argument(help="a timm model, the bundled clothing_vit, hf-hub:ORG/NAME, or a folder", show_default=True)
]
Weights = Annotated[Path | None, typer.Option(help="the model's weights: .safetensors, or .pth and its kin")]
RandomWeights = Annotated[bool, typer.Option("--random-weights", help="random weights: for latency work only")]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle", help="let --weights be a pickle that runs code; .pth files of tensors need no leave"
    ),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-option",
        metavar="NAME=VALUE",
        help="argument of the timm model: img_size=384 (or 224,384), num_classes=0; repeat",
    ),
]
ModelScript = Annotated[
    str | None,
    typer.Option(
        "--model-script", metavar="FILE:FUNCTION",
        help="a Python file's function that returns the model (or it and its preprocessing); the file is run",
    ),
]  # fmt: skip
PreprocessOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--preprocess", metavar="NAME=VALUE", help="mean=0.5,0.5,0.5, std, crop_pct, crop_mode or interpolation; repeat"
    ),
]
OutputsOpt = Annotated[
    str | None, typer.Option(help="classes, embedding or masks, where the model alone does not tell which it gives")
]
Data = Annotated[Path | None, typer.Option(help="folder or zip of photographs; the bundled ones by default")]
RuntimeOpt = Annotated[str, typer.Option(help="auto, eager, compile, onnxruntime or openvino")]
PrecisionOpt = Annotated[str, typer.Option(help="auto, fp32, bf16 or int8")]
DeviceOpt = Annotated[str, typer.Option(help="cpu, cuda or cuda:N")]
Batch = Annotated[int, typer.Option(help="images a call")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; by default the physical cores allowed to us")]
Trust = Annotated[
    bool, typer.Option("--trust", help="open a model file that is a program (eager, compile), whoever made it")
]
Seed = Annotated[int, typer.Option(help="seed of every random choice")]
Plugin = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", callback=lambda found: use_plugins(found), is_eager=True, metavar="FILE",
        help="a Python file that registers a method, a runtime or an adapter; it is run; repeat",
    ),
]  # fmt: skip
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
Fresh = Annotated[bool, typer.Option("--fresh", help="measure again instead of reading the profile from the cache")]
BUNDLED = "clothing_vit"
DEVICE = Target().device

OTHERS = {"target", "task", "split", "page", "progress", "say", "levels", "pairs"}  # arguments of single commands
WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)


def use_plugins(found: list[Path] | None) -> list[Path] | None:
    from foveate import plugins

    for file in found or ():
        plugins.add(file)
    return found


def model_options(words: Sequence[str] | None) -> dict[str, Any]:
    """`--model-option` as arguments of the model.

    A value is true or false, a whole number, a number, whole numbers with commas between, or else a word.

    Raises:
        InputError: for a word without name or value, a name given twice, or one that commands take themselves.
    """
    from foveate.fitting.request import Request

    found: dict[str, Any] = {}
    taken = {field.name for field in fields(Request)} | OTHERS
    for word in words or ():
        name, _, text = word.partition("=")
        if not name.isidentifier() or not text:
            raise InputError(f"--model-option {word!r}; allowed: NAME=VALUE, such as num_classes=0")
        if name in found:
            raise InputError(f"--model-option {name} is given twice, as {found[name]} and {text}; allowed: once")
        if name in taken:
            raise InputError(f"--model-option {name} is none of the model; allowed: its arguments, such as img_size")
        found[name] = value(text, name)
    return found


def preprocess_options(words: Sequence[str] | None) -> dict[str, Any] | None:
    """`--preprocess` as fields of `Preprocess`, which checks them.

    Raises:
        InputError: for a word without name or value, or a name given twice.
    """
    found: dict[str, Any] = {}
    for word in words or ():
        name, _, text = word.partition("=")
        if not name.isidentifier() or not text:
            raise InputError(f"--preprocess {word!r}; allowed: NAME=VALUE, such as crop_pct=1.0")
        if name in found:
            raise InputError(f"--preprocess {name} is given twice; allowed: once")
        parts = text.split(",")
        if not all(map(NUMBER.fullmatch, parts)):
            found[name] = text
        else:
            found[name] = tuple(map(float, parts)) if len(parts) > 1 else float(text)
    return found or None


def check_asked(model: str, script: str | None, words: Sequence[str] | None) -> None:
    """What can be told of `asked_model`'s arguments without importing torch.

    Raises:
        InputError: a name beside a script; no such script; a word of preprocessing that is none.
    """
    preprocess_options(words)
    if script is not None:
        if model != BUNDLED:
            raise InputError(f"--model-script {script} beside the model {model!r}; allowed: one of them")
        from foveate.loading.paths import script_parts

        script_parts(script)


def asked_model(model: str, script: str | None, words: Sequence[str] | None) -> tuple[Any, Any]:
    """The name, or the model that a script makes; and what is asked of its preprocessing.

    Raises:
        InputError: as `check_asked`; a script that returns no model.
    """
    check_asked(model, script, words)
    own = preprocess_options(words)
    if script is None:
        return model, own
    from foveate.loading.script import from_script

    made = from_script(script)
    if made.preprocess is None or own is None:
        return made.model, own if made.preprocess is None else made.preprocess
    first = made.preprocess if isinstance(made.preprocess, Mapping) else made.preprocess.model_dump()
    return made.model, {**first, **own}


def value(text: str, name: str) -> bool | int | float | str | tuple[int, ...]:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if WHOLE.fullmatch(text):
        return int(text)
    if NUMBER.fullmatch(text):
        if not math.isfinite(number := float(text)):
            raise InputError(f"--model-option {name}={text}; allowed: finite numbers")
        return number
    parts = text.split(",")
    return tuple(map(int, parts)) if len(parts) > 1 and all(map(WHOLE.fullmatch, parts)) else text

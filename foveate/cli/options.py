"""Options that several commands take, alike in name, help and meaning."""

import inspect
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from foveate.errors import InputError
from foveate.target import Target

ModelArg = Annotated[str, typer.Argument(help="timm model name, or the bundled clothing_vit", show_default=True)]
Weights = Annotated[Path | None, typer.Option(help="safetensors file with the model's weights")]
RandomWeights = Annotated[bool, typer.Option("--random-weights", help="random weights: for latency work only")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="let --weights be a pickle (.pth); it may run code")]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-option", metavar="NAME=VALUE", help="argument of the timm model: img_size=384, num_classes=0; repeat"
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
Seed = Annotated[int, typer.Option(help="seed of every random choice")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
Fresh = Annotated[bool, typer.Option("--fresh", help="measure again instead of reading the profile from the cache")]
BUNDLED = "clothing_vit"
DEVICE = Target().device

WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)


def model_options(words: Sequence[str] | None, command: Callable[..., object]) -> dict[str, Any]:
    """`--model-option` as arguments for `command`, which hands those it does not know to `load`, and that to the model.

    A value is true or false, a whole number, a number, whole numbers with commas between, or else a word.

    Raises:
        InputError: for a word without name or value, a name given twice, or one of `command`'s or `load`'s own.
    """
    found: dict[str, Any] = {}
    if not words:
        return found
    from foveate.loading.load import load

    taken = {*inspect.signature(command).parameters, *inspect.signature(load).parameters}
    for word in words:
        name, _, text = word.partition("=")
        if not name.isidentifier() or not text:
            raise InputError(f"--model-option {word!r}; allowed: NAME=VALUE, such as num_classes=0")
        if name in found:
            raise InputError(f"--model-option {name} is given twice, as {found[name]} and {text}; allowed: once")
        if name in taken:
            raise InputError(f"--model-option {name} is none of the model; allowed: its arguments, such as img_size")
        found[name] = value(text, name)
    return found


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

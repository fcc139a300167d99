"""Options that several commands take, alike in name, help and meaning."""

from pathlib import Path
from typing import Annotated

import typer

ModelArg = Annotated[str, typer.Argument(help="timm model name, or the bundled clothing_vit", show_default=True)]
Weights = Annotated[Path | None, typer.Option(help="safetensors file with the model's weights")]
RandomWeights = Annotated[bool, typer.Option("--random-weights", help="random weights: for latency work only")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="let --weights be a pickle (.pth); it may run code")]
Data = Annotated[Path | None, typer.Option(help="folder or zip of photographs; the bundled ones by default")]
RuntimeOpt = Annotated[str, typer.Option(help="auto, eager, compile, onnxruntime or openvino")]
PrecisionOpt = Annotated[str, typer.Option(help="auto, fp32, bf16 or int8")]
Batch = Annotated[int, typer.Option(help="images a call")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; by default the physical cores allowed to us")]
Seed = Annotated[int, typer.Option(help="seed of every random choice")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]
Fresh = Annotated[bool, typer.Option("--fresh", help="measure again instead of reading the profile from the cache")]
BUNDLED = "clothing_vit"

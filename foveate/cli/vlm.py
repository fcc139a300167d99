"""Commands for language models that see."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.options import DEVICE, AllowPickle, AsJson, DeviceOpt
from foveate.console import emit, err, escape, out, stages

app = typer.Typer(name="vlm", help="Token budgets for language models that see.", no_args_is_help=True)


@app.command()
def generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a folder or hub id of Hugging Face's")],
    image: Annotated[list[Path], typer.Option("--image", help="a picture; repeat for several")],
    prompt: Annotated[str, typer.Option(help="what to ask")] = "What is in this picture?",
    budget: Annotated[
        str, typer.Option(help="a share of each picture's tokens (0.2), or a number of them (576); 1.0 keeps all")
    ] = "0.2",
    method: Annotated[str, typer.Option(help="what decides which tokens stay; see: foveate list budgets")] = "hired",
    max_new_tokens: Annotated[int, typer.Option(help="tokens of the answer at most")] = 64,
    device: DeviceOpt = DEVICE,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16")] = "fp32",
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
) -> None:
    """Ask about pictures, of which the language model is shown a budget of tokens.

    Examples:

        foveate vlm generate llava-hf/llava-v1.6-mistral-7b-hf --image page.png --prompt "What is the total?"

        foveate vlm generate ./my-llava --image a.jpg --image b.jpg --prompt "What differs?" --budget 576

        foveate vlm generate ./my-llava --image a.jpg --budget 0.1 --method hired-diverse --json
    """
    from foveate.commands.vlm import answer, parse

    with stages() as progress:
        said = answer(
            model,
            image,
            prompt,
            budget=parse(budget),
            method=method,
            max_new_tokens=max_new_tokens,
            device=device,
            precision=precision,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    for path, (stayed, full) in zip(image, said.tokens, strict=True):
        err.print(f"tokens   {stayed} of {full}  {escape(str(path))}")
    decode = said.total_ms - said.first_ms
    rate = f", then {1000 * (said.new_tokens - 1) / decode:.1f} tokens/s" if said.new_tokens > 1 and decode else ""
    err.print(f"time     {said.first_ms:.0f} ms to the first token of {said.new_tokens}{rate}")
    if not as_json:
        out.print(escape(said.text))
    emit(asdict(said), as_json)

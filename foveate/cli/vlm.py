"""Commands for language models that see."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.options import DEVICE, AllowPickle, AsJson, DeviceOpt, Threads
from foveate.console import emit, err, escape, out, stages, table

Model = Annotated[str, typer.Argument(metavar="MODEL", help="a folder or hub id of Hugging Face's")]
Precision = Annotated[str, typer.Option(help="fp32, bf16 or fp16")]
METHOD = "what decides which tokens stay; see: foveate list budgets"
ENCODER = "what the encoder's own blocks merge: a method and tokens a block, such as tome:8"

app = typer.Typer(name="vlm", help="Token budgets for language models that see.", no_args_is_help=True)


@app.command()
def generate(
    model: Model,
    image: Annotated[list[Path], typer.Option("--image", help="a picture; repeat for several")],
    prompt: Annotated[str, typer.Option(help="what to ask")] = "What is in this picture?",
    budget: Annotated[
        str | None,
        typer.Option(
            help="a share of each picture's tokens, a number of them (576), or a folder of vlm fit", show_default="0.2"
        ),
    ] = None,
    ttft_ms: Annotated[float | None, typer.Option(help="as many tokens as keep within so many milliseconds")] = None,
    memory_gb: Annotated[float | None, typer.Option(help="as many as keep within so many gigabytes")] = None,
    method: Annotated[
        str | None,
        typer.Option(help=METHOD, show_default="hired, or the folder's"),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="tokens of the answer at most")] = 64,
    device: DeviceOpt = DEVICE,
    precision: Precision = "fp32",
    allow_pickle: AllowPickle = False,
    threads: Threads = None,
    encoder: Annotated[str | None, typer.Option(help=ENCODER)] = None,
    draw: Annotated[Path | None, typer.Option(help="a folder for a PNG a picture: what is dropped is faded")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask about pictures, of which the language model is shown a budget of tokens.

    Examples:

        foveate vlm generate llava-hf/llava-v1.6-mistral-7b-hf --image page.png --prompt "What is the total?"

        foveate vlm generate ./my-llava --image a.jpg --image b.jpg --prompt "What differs?" --budget 576

        foveate vlm generate ./my-llava --image a.jpg --ttft-ms 500

        foveate vlm generate ./my-llava --image a.jpg --budget 0.1 --method hired-diverse --json
    """
    from foveate.commands.vlm import answer, parse

    asked = parse(budget or "0.2") if budget or (ttft_ms is None and memory_gb is None) else None
    with stages() as progress:
        said = answer(
            model,
            image,
            prompt,
            budget=None if asked is None else asked.budget,
            ttft_ms=ttft_ms,
            memory_gb=memory_gb,
            method=method or (asked.method if asked else None) or "hired",
            max_new_tokens=max_new_tokens,
            device=device,
            precision=precision,
            allow_pickle=allow_pickle,
            threads=threads,
            encoder=encoder or (asked.encoder if asked else None),
            draw=draw,
            progress=progress,
        )
    for name in said.drawn:
        err.print(f"drawn    {escape(name)}")
    for path, (stayed, full) in zip(image, said.tokens, strict=True):
        err.print(f"tokens   {stayed} of {full}  {escape(str(path))}")
    decode = said.total_ms - said.first_ms
    rate = f", then {1000 * (said.new_tokens - 1) / decode:.1f} tokens/s" if said.new_tokens > 1 and decode else ""
    err.print(f"time     {said.first_ms:.0f} ms to the first token of {said.new_tokens}{rate}")
    if not as_json:
        out.print(escape(said.text))
    emit(asdict(said), as_json)


@app.command()
def fit(
    model: Model,
    image: Annotated[list[Path], typer.Option("--image", help="a picture as it will come; repeat for several")],
    prompt: Annotated[str, typer.Option(help="a question as it will come")] = "What is in this picture?",
    ttft_ms: Annotated[float | None, typer.Option(help="milliseconds to the first token, the median")] = None,
    memory_gb: Annotated[float | None, typer.Option(help="gigabytes (10^9) in use at most, weights included")] = None,
    method: Annotated[str, typer.Option(help=METHOD)] = "hired",
    device: DeviceOpt = DEVICE,
    precision: Precision = "fp32",
    allow_pickle: AllowPickle = False,
    threads: Threads = None,
    encoder: Annotated[str | None, typer.Option(help=f"{ENCODER}; or search")] = None,
    pairs: Annotated[int, typer.Option(help="runs by turns at least, of all tokens and of the budget")] = 64,
    out_dir: Annotated[Path, typer.Option("--out", help="folder for budget.json and report.html")] = Path(
        "foveate-vlm"
    ),
    as_json: AsJson = False,
) -> None:
    """Find the most tokens a picture that keep within a time or a memory on this machine, and prove them faster.

    Examples:

        foveate vlm fit ./my-llava --image page.png --ttft-ms 800

        foveate vlm fit ./my-llava --image page.png --memory-gb 6 --method hired-diverse

        foveate vlm fit ./my-llava --image page.png --ttft-ms 400 --encoder search

        foveate vlm generate ./my-llava --image page.png --budget foveate-vlm
    """
    from foveate.commands.vlm_fit import fit as fit_budget

    with stages() as progress:
        found = fit_budget(
            model, image, prompt, ttft_ms=ttft_ms, memory_gb=memory_gb, method=method, device=device,
            precision=precision, allow_pickle=allow_pickle, threads=threads, encoder=encoder, pairs=pairs, out=out_dir,
            progress=progress,
        )  # fmt: skip
    for note in found.notes:
        err.print(f"[bold red]note[/]     {escape(note)}")
    if not as_json:
        made = table("stage", *(f"{which} tokens" for which in found.stages), title="milliseconds")
        for stage in next(iter(found.stages.values())):
            made.add_row(stage.removesuffix("_ms"), *(f"{ms[stage]:.1f}" for ms in found.stages.values()))
        for which, gb in found.peak_gb.items():
            err.print(f"memory   {gb:.2f} GB at most with {which} tokens")
        out.print(made)
        out.print(escape(found.reason))
        if found.cost is not None:
            same, kl = found.cost["agreement"], found.cost["kl"]
            out.print(
                f"cost     on this question: {same:.0%} of the answer's tokens are the same, KL {kl:.3f} nats a token"
            )
        out.print(f"written  {escape(str(out_dir))}/ (report.html, budget.json)")
    emit(asdict(found), as_json)
    if not found.met:
        raise typer.Exit(3)

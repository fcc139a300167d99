"""Commands for experiments that take hours."""

from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.options import AsJson, Seed
from foveate.console import emit, err, escape, out, stages, table

app = typer.Typer(name="study", help="Experiments that take long: resumable, the same for the same seed.",
                  no_args_is_help=True)  # fmt: skip


@app.callback()
def about() -> None:
    """Experiments that take long: resumable, the same for the same seed."""


@app.command("moe-rates")
def moe_rates(
    low: Annotated[int, typer.Option(help="the smallest sample")] = 1000,
    high: Annotated[int, typer.Option(help="the largest sample")] = 100_000,
    sizes: Annotated[int, typer.Option(help="how many sizes, log-spaced")] = 20,
    repeats: Annotated[int, typer.Option(help="samples of each size")] = 40,
    only: Annotated[str | None, typer.Option(help="settings whose names contain this, such as 'tanh on'")] = None,
    processes: Annotated[int | None, typer.Option(help="by default as many as there are processors")] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="folder to write; the same again goes on")] = Path("moe-rates"),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Softmax against sigmoid gates of mixtures of experts: how fast errors fall with the sample.

    The claim of arXiv:2502.00281 (sigmoid attention needs fewer samples), reconstructed, and both gates on common
    truths. About 20 minutes on two processors; what is done stays done.

    Examples:

        foveate study moe-rates

        foveate study moe-rates --only "tanh on softmax" --sizes 7 --repeats 12 --high 1000000000

        foveate study moe-rates --processes 8 --out rates --json
    """
    from pydantic import ValidationError

    from foveate.errors import InputError
    from foveate.report.rates import write_rates
    from foveate.studies.moe_rates import Design, study

    try:
        design = Design(low=low, high=high, sizes=sizes, repeats=repeats, seed=seed, only=only)
    except ValidationError as e:
        wrong = e.errors()[0]
        raise InputError(f"{'.'.join(map(str, wrong['loc']))} is {wrong['input']}: {wrong['msg']}") from None
    if processes is not None and processes < 1:
        raise InputError(f"--processes {processes}; allowed: 1 or more")
    with stages() as progress:
        done = study(out_dir, design, processes=processes, progress=progress)
        page = write_rates(out_dir)
    rates = done.rates()
    if not as_json:
        shown = table("setting", "error", "slope", "95 %", title="slopes of log error over log samples")
        for row in rates:
            shown.add_row(row["setting"], row["error"], f"{row['slope']:.2f}", f"{row['low']:.2f} to {row['high']:.2f}")
        out.print(shown)
    err.print(f"written  {escape(str(out_dir))}/ (rates.json, {page.name})")
    emit({"folder": str(out_dir), "rates": rates}, as_json)

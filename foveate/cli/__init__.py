"""The command line: one short function a command, each calling one public function.

Every command takes `--json` for one machine-readable object on stdout; progress and prose go to stderr.
Exit codes: 0 done; 2 wrong arguments or input; 3 done, but nothing faster within the budget.
"""

from typing import Annotated

import typer

from foveate.cli.answering import run, serve
from foveate.cli.making import export, fit, reparameterize, train
from foveate.cli.measuring import compare, evaluate, profile
from foveate.cli.simulate import app as simulate
from foveate.cli.study import app as study
from foveate.cli.telling import doctor, list_
from foveate.cli.vlm import app as vlm
from foveate.console import guarded, out
from foveate.version import __version__

app = typer.Typer(
    name="foveate",
    help="Fits a vision transformer to the device that has to run it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (fit, run, profile, compare, evaluate, export, train, reparameterize, serve):
    app.command()(command)
app.command("list")(list_)
app.command()(doctor)
app.add_typer(vlm)
app.add_typer(simulate)
app.add_typer(study)


def version(show: bool) -> None:
    if show:
        out.print(f"foveate {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Fits a vision transformer to the device that has to run it."""


def main() -> None:
    """Entry point."""
    guarded(app)

"""Commands that tell what is known and what this machine is."""

import json
from typing import Annotated

import typer
from rich.table import Table

from foveate.cli.options import AsJson, Plugin
from foveate.console import emit, escape, out, stages


def list_(
    what: Annotated[str, typer.Argument(help="methods, models or runtimes")] = "methods",
    pattern: Annotated[str | None, typer.Argument(help="of names of models: 'vit_small*'")] = None,
    plugin: Plugin = None,
    as_json: AsJson = False,
) -> None:
    """What foveate knows.

    Examples:

        foveate list runtimes

        foveate list models 'vit_small*'
    """
    from foveate.commands.listing import listing

    rows = listing(what, pattern)
    if not as_json:
        table = Table(title=what)
        for name in rows[0]:
            table.add_column(name, overflow="fold")  # a name that is cut names nothing
        for row in rows:
            table.add_row(*(escape(str(v)) for v in row.values()))
        out.print(table)
    emit({what: rows}, as_json)


def doctor(as_json: AsJson = False) -> None:
    """What this machine is: cores, instruction sets, memory, runtimes on each device, and the peaks it reaches.

    Example:

        foveate doctor --json
    """
    from foveate.commands.listing import examine

    with stages() as progress:
        facts = examine(progress)
    if not as_json:
        table = Table("fact", "value", show_header=False)
        for key, value in facts.items():
            table.add_row(key, escape(value if isinstance(value, str) else json.dumps(value)))
        out.print(table)
    emit(facts, as_json)

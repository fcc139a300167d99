"""Commands that tell what is known and what this machine is."""

import json
from typing import Annotated

import typer

from foveate.cli.options import AsJson, Plugin
from foveate.console import emit, escape, out, stages, table


def list_(
    what: Annotated[str, typer.Argument(help="methods, budgets, attention, linears, models or runtimes")] = "methods",
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
        made = table(*rows[0], title=what)
        for row in rows:
            made.add_row(*(escape(str(v)) for v in row.values()))
        out.print(made)
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
        made = table("fact", "value", show_header=False)
        for key, value in facts.items():
            made.add_row(key, escape(value if isinstance(value, str) else json.dumps(value)))
        out.print(made)
    emit(facts, as_json)

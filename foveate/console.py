"""What the commands say and where: results on stdout, progress and prose on stderr."""

import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from foveate.errors import InputError
from foveate.files import full

if TYPE_CHECKING:
    from rich.table import Table

EXTRAS = {  # what each brings beyond a torch-free install
    "fit": ("torch", "timm", "onnx", "onnxscript", "jinja2"),
    "vlm": ("transformers",),
}
err = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False, soft_wrap=True)


@contextmanager
def stages() -> Iterator[Any]:
    """A progress bar on stderr that says which stage is under way; silent where stderr is no terminal and quiet."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.fields[stage]:>8}"),
        BarColumn(30),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    seen = set()
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=1.0, stage="")

        def progress(stage: str, share: float, text: str) -> None:
            bar.update(task, completed=share, description=escape(text), stage=stage)
            if stage not in seen:
                seen.add(stage)
                if not err.is_terminal:
                    err.print(f"{stage}: {escape(text)}")

        yield progress


def say(lines: Iterable[str]) -> None:
    """Lines that a user should know of, on stderr."""
    for line in lines:
        err.print(f"[dim]note[/]     {escape(line)}")


def escape(text: str) -> str:
    """Text that a user or a file gave, to stand in a line: brackets are no markup in it, and a terminal obeys none of
    it."""
    from rich.markup import escape as rich_escape

    return rich_escape("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text))


def table(*names: str, title: str | None = None, **how: Any) -> "Table":
    """An empty table with these columns. What is too wide for its column is folded: a figure that is cut says less than
    none."""
    from rich.table import Table

    made = Table(title=None if title is None else escape(title), **how)
    for name in names:
        made.add_column(name, overflow="fold")
    return made


def emit(value: Any, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(value, default=str) + "\n")
        sys.stdout.flush()  # a server goes on after it


def command_line() -> str:
    import shlex

    return "foveate " + " ".join(map(shlex.quote, sys.argv[1:]))


class Stopped(BaseException):
    """Ctrl-C or SIGTERM, under a name that no library between us and `guarded` catches."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number  # as shells have it


def stop(number: int, _: object = None) -> None:
    """Ends what runs; what is open is closed on the way. Another signal does not break into that."""
    import signal

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def guarded(app: Callable[[], object]) -> None:
    """Run it: what users or systems (a full disk) get wrong is a line and exit code 2, a signal one and 130 or 143."""
    import logging
    import signal

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names beyond what a terminal or a pipe can write are escaped there
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)
    try:
        app()
    except ModuleNotFoundError as e:
        extra = next((extra for extra, names in EXTRAS.items() if e.name in names), None)
        if extra is None:
            raise
        err.print(f"[bold red]error[/] this needs {e.name}, which is not installed: pip install 'foveate\\[{extra}]'")
        sys.exit(2)
    except (InputError, OSError) as e:
        err.print(f"[bold red]error[/] {escape(' '.join(str(e).split()))}")
        sys.exit(2)
    except Stopped as e:
        err.print("stopped; nothing half-written")
        sys.exit(e.code)
    except Exception as e:  # libraries have errors of their own for a full disk
        if (reason := full(Path(tempfile.gettempdir()), e)) is None:
            raise
        err.print(f"[bold red]error[/] {reason}: {escape(' '.join(str(e).split())[:200])}")
        sys.exit(2)

"""What the commands say and where: results on stdout, progress and prose on stderr."""

import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
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


# Where an exception is printed and dropped, leaves a lock behind or ends the process: finalisers, callbacks, what runs
# around a fork, a write for torch's writer. Functions of a file, () for all.
FRAGILE = {
    "foveate/files.py": ("write", "seek", "tell", "flush", "_do"),
    "logging/__init__.py": ("_acquireLock", "_releaseLock", "acquire", "release", "_after_at_fork_child_reinit_locks"),
    "weakref.py": (),
    "multiprocessing/popen_fork.py": (),
    "multiprocessing/util.py": (),
}
# Where a block is entered or left: a file made and nobody yet who removes it, a mode of torch's not yet put back, over
# which its C++ terminates.
NAMES = ("__enter__", "__exit__", "__del__")
AGAIN_SECONDS = 0.02
PATIENCE_SECONDS = 2  # after which it is raised wherever it is: a block may never be entered
_number = 0  # of the signal that has come
_came = 0.0  # when


def stop(number: int, frame: FrameType | None = None) -> None:
    """Ends what runs; what is open is closed on the way. Another signal does not break into that.

    Where an exception would be swallowed or do harm it is raised a little later instead, and raised again where it was
    swallowed.
    """
    import signal

    global _number, _came
    if number != getattr(signal, "SIGALRM", None):
        _number, _came = number, time.monotonic()
    if time.monotonic() - _came < PATIENCE_SECONDS and _fragile(frame) and _again():
        return
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(_number)


def _fragile(frame: FrameType | None) -> bool:
    while frame is not None:
        code = frame.f_code
        names = next((n for end, n in FRAGILE.items() if code.co_filename.replace("\\", "/").endswith(end)), None)
        if code.co_name in NAMES or (names is not None and (not names or code.co_name in names)):
            return True
        frame = frame.f_back
    return False


def _again() -> bool:
    """Come back in a moment; False on a system that has no timer for it."""
    import signal

    if not hasattr(signal, "setitimer"):
        return False
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
    return True


def _unraisable(told: Callable[[Any], object]) -> Callable[[Any], None]:
    """What Python does with an exception that nobody can catch: ours comes again, and what it broke off is silent."""

    def hook(unraisable: Any) -> None:
        if _number and unraisable.exc_type is not None and issubclass(unraisable.exc_type, Stopped):
            _again()
        elif not _number:
            told(unraisable)

    return hook


def _finished() -> None:
    import signal

    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN if _number else signal.SIG_DFL)


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
    sys.unraisablehook = _unraisable(sys.unraisablehook)
    try:
        try:
            app()
        finally:  # from here on a signal ends the process as it does others
            _finished()
    except Stopped as e:
        _stopped(e.code)
    except Exception as e:
        if _number:  # what was broken off may say so in words of its own
            _stopped(128 + _number)
        _failed(e)


def _stopped(code: int) -> None:
    err.print("stopped; nothing half-written")
    sys.exit(code)


def _failed(error: Exception) -> None:
    """What users or systems get wrong is a line and exit code 2; anything else is raised again."""
    if isinstance(error, ModuleNotFoundError):
        extra = next((extra for extra, names in EXTRAS.items() if error.name in names), None)
        if extra is None:
            raise error
        said = f"this needs {error.name}, which is not installed: pip install 'foveate\\[{extra}]'"
    elif isinstance(error, InputError | OSError):
        said = escape(" ".join(str(error).split()))
    # libraries have errors of their own for a full disk
    elif (reason := full(Path(tempfile.gettempdir()), error)) is not None:
        said = f"{reason}: {escape(' '.join(str(error).split())[:200])}"
    else:
        raise error
    err.print(f"[bold red]error[/] {said}")
    sys.exit(2)

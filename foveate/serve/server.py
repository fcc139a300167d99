"""The server's process: uvicorn, its socket, its logs, and what a signal does."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import prometheus_client
import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from foveate.errors import InputError
from foveate.serve.app import create_app
from foveate.serve.connection import CONNECTIONS, RESERVED, Connection
from foveate.serve.gate import JsonLines, ServerState
from foveate.serve.served import Served
from foveate.serve.settings import Settings

BACKLOG = 2048  # connections that wait to be accepted
LAST_S = 2  # for connections to end once everything is answered


def run(settings: Settings, say: Callable[[str, str], None], ready: Callable[[str], None]) -> None:
    """Load, listen, say where, and serve until a signal; see `foveate.serve.serve`."""
    _process(settings.log_level)
    if settings.host not in ("127.0.0.1", "localhost", "::1") and settings.token is None:
        say("warning", f"{settings.host} can be reached from outside, and there is no token")
    several = settings.workers > 1
    served = Served(settings, load=not several, own_process=not several)
    listener = _listen(settings)
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    points = len(served.points)
    say("serving", f"{url} ({served.name}, {points} operating point{'s' * (points > 1)}; Ctrl-C ends it)")
    if served.artefact.card.note:
        say("note", served.artefact.card.note)
    early: list[int] = []  # signals from here until somebody else handles them
    # When uvicorn is done it raises the signal again, for whoever handled it before: then nothing happens, exit code 0.
    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, lambda sig, _: early.append(sig))
    if several:
        settings.to_environment()
        config = _config("foveate.serve.server:worker", settings, factory=True, workers=settings.workers)
        supervisor = Multiprocess(config, sockets=[listener])
        ready(url)
        supervisor.run()
        if any(p.exitcode == STARTUP_FAILURE for p in supervisor.processes):
            raise InputError("a worker could not start; its line above says why")
        return
    app = create_app(served, settings, signals=lambda state: draining(state, settings.drain_s, early))
    ready(url)
    uvicorn.Server(_config(app, settings)).run(sockets=[listener])


def worker() -> FastAPI:
    """The application of one worker process among several."""
    settings = Settings.from_environment()
    Connection.seconds = settings.receive_s
    _process(settings.log_level)
    threading.Thread(target=_follow, name="parent", daemon=True).start()
    try:
        served = Served(settings, own_process=True)
    except InputError as e:
        logging.getLogger("foveate.serve").error("not started", extra={"facts": {"error": str(e)}})
        raise SystemExit(STARTUP_FAILURE) from None
    return create_app(served, settings, signals=lambda state: draining(state, settings.drain_s))


def _follow() -> None:
    """End as on a signal once the parent is gone: killed, it could not say so, and its workers would go on alone."""
    parent = multiprocessing.parent_process()  # it may be gone before this one runs
    while parent is not None and os.getppid() == parent.pid:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def draining(state: ServerState, seconds: float, early: Sequence[int] = ()) -> Iterator[None]:
    """While it lasts, a signal first ends the taking of requests, and reaches uvicorn when all accepted are answered.

    uvicorn alone would close its listener at once, with connections in it that it has not looked at: their clients
    would see a reset, not a refusal. So the door stays open until the last answer, and who comes to it gets 503.
    early: signals that came before.
    """
    loop = asyncio.get_running_loop()
    before: dict[int, Any] = {sig: signal.getsignal(sig) for sig in (signal.SIGINT, signal.SIGTERM)}
    tasks: list[asyncio.Task[None]] = []

    async def finish(sig: int) -> None:
        until = loop.time() + seconds
        while state.unanswered and loop.time() < until:
            await asyncio.sleep(0.02)
        if state.unanswered:
            logging.getLogger("foveate.serve").error("unanswered", extra={"facts": {"requests": state.unanswered}})
        before[sig](sig, None)

    def handle(sig: int, frame: FrameType | None) -> None:
        if not state.draining:
            state.draining = True
            loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(finish(sig))))
        elif sig == signal.SIGINT and threading.current_thread() is threading.main_thread():
            before[sig](sig, frame)  # Ctrl-C again: somebody does not want to wait

    for sig in before:
        signal.signal(sig, handle)
    for sig in early[:1]:
        handle(sig, None)
    try:
        yield
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


def _config(app: Any, settings: Settings, **more: Any) -> uvicorn.Config:
    protocol = type("Connection", (Connection,), {"seconds": settings.receive_s}) if not more else Connection
    return uvicorn.Config(
        app, http=protocol, ws="none", lifespan="on", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, backlog=BACKLOG, timeout_graceful_shutdown=LAST_S, **more,
    )  # fmt: skip


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as e:
        listener.close()
        raise InputError(
            f"cannot listen on --host {settings.host} --port {settings.port}: {e.strerror or e}; "
            f"allowed: an address of this machine and a port that is free (0 finds one)"
        ) from None
    listener.set_inheritable(True)
    return listener


def _logs(level: str) -> None:
    """JSON lines on stderr, ours and uvicorn's."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    for name in ("foveate.serve", "uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        # uvicorn's own remarks (a process started, a signal received) are for debugging.
        quiet = name != "foveate.serve" and level == "info"
        logger.setLevel("WARNING" if quiet else level.upper())


def _process(log_level: str) -> None:
    """What is set for the process as a whole."""
    _logs(log_level)
    prometheus_client.disable_created_metrics()  # a line more for every label, which nobody reads
    # A connection is a file: as many as the system grants this process.
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 2 * (CONNECTIONS + RESERVED + BACKLOG)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard > 0 else wanted, hard))

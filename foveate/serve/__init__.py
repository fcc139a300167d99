"""Answering requests: a deployed folder behind HTTP, its operating point chosen by the load.

protocol.py  Open Inference Protocol v2 bodies <-> numpy     batcher.py   the bounded queue and the model's thread
app.py       routes, and what OpenAPI says of them           gate.py      ids, token, refusals, log lines: every request
photos.py    /classify, /embed, /segment                     service.py   from a body to an answer
bodies.py    bodies received within their limits             metrics.py   what Prometheus reads
served.py    the folder, loaded and warmed                   server.py    uvicorn, signals, workers
"""

from collections.abc import Callable

from foveate.errors import NotAvailable
from foveate.serve.settings import Settings as Settings


def serve(settings: Settings, *, say: Callable[[str, str], None], ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; returns when all that was accepted is answered.

    Args:
        say: told of what a person should know: (a word for its kind, one line).
        ready: told the URL, once connections are taken.

    Raises:
        NotAvailable: where the `serve` extra is not installed; InputError: for a folder or option that is not valid.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as e:
        raise NotAvailable(f"serving needs FastAPI: pip install 'foveate[serve]' (missing: {e.name})") from None
    from foveate.serve.server import run

    run(settings, say, ready)

"""What every request passes: an id, the token, a place among those under way, a line in the log, a count.

Plain ASGI around the application, so that nothing of a body is read before it is known that it will be wanted.
"""

import asyncio
import json
import logging
import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from foveate.serve.connection import OPEN, unsent
from foveate.serve.metrics import Metrics
from foveate.serve.settings import Settings

log = logging.getLogger("foveate.serve")
SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
GONE = 499  # in logs and counts: the client left before its answer
SMALL = 65536  # bytes of an answer that is sent whoever reads theirs or not
MOST_UNSENT = 2**29  # bytes of answers that clients have not taken yet; past it no other large one is sent


@dataclass
class ServerState:
    """Of one process. draining: nothing new is taken. active: POST requests that are being worked on, whose number is
    bounded; unanswered: those, and whose answers are still being sent, which a client may take its time over."""

    draining: bool = False
    active: int = 0
    unanswered: int = 0


@dataclass
class RequestContext:
    """Of one request, in `scope["context"]`; `facts` go into its log line."""

    id: str
    began: float  # by time.monotonic
    status: int = GONE
    whole: bool = False  # its body was read to the end
    place: bool = False  # it is among those that are worked on
    facts: dict[str, Any] = field(default_factory=dict)


class Gate:
    def __init__(self, app: ASGIApp, settings: Settings, state: ServerState, metrics: Metrics) -> None:
        self._app, self._settings, self._state, self._metrics = app, settings, state, metrics
        self._token = None if settings.token is None else settings.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        context = RequestContext(given if SANE.fullmatch(given) else secrets.token_hex(8), time.monotonic())
        scope["context"] = context

        async def hear() -> Message:
            message = await receive()
            context.whole |= message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._leave(context)
                if (large := _length(message)) > SMALL and unsent() + large > MOST_UNSENT:
                    raise _Unsendable
                context.status = message["status"]
                out = MutableHeaders(scope=message)
                out["x-request-id"] = context.id
                if not await self._rest(context, headers, hear) or self._state.draining:
                    out["connection"] = "close"
            await send(message)

        work = scope["method"] == "POST"
        refusal = self._refusal(scope, headers, work)
        context.place = work and refusal is None
        self._state.active += context.place
        self._state.unanswered += context.place
        counted = context.place
        try:
            if refusal is not None:
                await refusal(scope, hear, say)
            else:
                log.debug("accepted", extra={"facts": {"id": context.id, "path": scope["path"]}})
                # A balancer's HEAD is a GET whose answer has no body: the server leaves it out.
                inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
                await self._app(inner, hear, say)
                scope.setdefault("route", inner.get("route"))
        except ClientDisconnect:
            context.status = GONE
        except _Unsendable:
            self._metrics.refused.labels("memory").inc()
            line = "no memory for another answer now, others are not taken; come again"
            await JSONResponse({"error": line}, 503, {"retry-after": "1"})(scope, hear, say)
        except Exception as e:  # a bug of ours: one line for both sides
            line = " ".join(f"{type(e).__name__}: {e}".split())
            log.error("failed", extra={"facts": {"id": context.id, "error": line}})
            if context.status == GONE:
                await JSONResponse({"error": f"the server failed; its log has it under {context.id}"}, 500)(
                    scope, hear, say
                )
        finally:
            self._leave(context)
            self._state.unanswered -= counted
            self._done(scope, context)

    def _leave(self, context: RequestContext) -> None:
        """Give its place to the next one."""
        self._state.active -= context.place
        context.place = False

    def _refusal(self, scope: Scope, headers: Headers, work: bool) -> ASGIApp | None:
        """The answer to a request that is not let in."""
        closed = self._token is not None and not OPEN.fullmatch(scope["path"])
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = secrets.compare_digest(given.strip().encode(), self._token or b"") and scheme.lower() == "bearer"
        if closed and not right:
            line = "no valid token; allowed: Authorization: Bearer TOKEN"
            return JSONResponse({"error": line}, 401, {"www-authenticate": "Bearer"})
        if (
            "content-length" in headers and "transfer-encoding" in headers
        ):  # two servers in a row may disagree on its end
            line = "content-length and transfer-encoding in one request; allowed: one of them"
            return JSONResponse({"error": line}, 400, {"connection": "close"})
        if not work:
            return None
        if self._state.draining:
            reason, line = "draining", "shutting down; nothing new is taken"
        elif self._state.active >= self._settings.in_flight:
            reason, line = "busy", f"{self._state.active} requests are under way, as many as allowed; come again"
        else:
            return None
        self._metrics.refused.labels(reason).inc()
        return JSONResponse({"error": line}, 503, {"retry-after": "1"})

    async def _rest(self, context: RequestContext, headers: Headers, hear: Receive) -> bool:
        """Read what an answer given early left of the body and forget it, within limits; False where more may come.

        Closing on a client that still sends would reset the connection, and lose it the answer.
        """
        if context.whole or context.status < 400:
            return True
        if context.status == 408 or "expect" in headers:
            return False
        size = 0
        try:
            async with asyncio.timeout(2):
                while not context.whole and size <= self._settings.max_body_bytes:
                    size += len((await hear()).get("body", b""))
        except TimeoutError:
            return False
        return context.whole

    def _done(self, scope: Scope, context: RequestContext) -> None:
        # The template, not the path: a client must not be able to make up new labels without end.
        route = getattr(scope.get("route"), "path", "other")
        seconds = time.monotonic() - context.began
        self._metrics.requests.labels(route, context.status).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if context.status == GONE:
            self._metrics.disconnected.inc()
        facts = {"id": context.id, "method": scope["method"], "path": scope["path"][:256], "status": context.status}
        log.info("request", extra={"facts": facts | {"ms": round(1e3 * seconds, 3)} | context.facts})


class _Unsendable(Exception):
    """An answer that there is no memory for while it waits to be taken."""


def _length(start: Message) -> int:
    given = Headers(raw=start["headers"]).get("content-length", "0")
    return int(given) if given.isdecimal() else 0


class JsonLines(logging.Formatter):
    """One JSON object a line; tracebacks stay inside it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": round(record.created, 3), "level": record.levelname.lower()}
        line |= {"event": record.getMessage(), **getattr(record, "facts", {})}
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = " ".join(f"{type(record.exc_info[1]).__name__}: {record.exc_info[1]}".split())
        return json.dumps(line)

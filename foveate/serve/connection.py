"""One connection: how long a client may take over what it sends and what it is sent, and how many there may be.

uvicorn's own, with three things more: a request's head has a time limit, the first one's and all others'; so has the
taking of an answer; and past the bound on connections a few more are let in, for questions of health alone, so that
nobody who holds the others makes a living server look dead.
"""

import asyncio
import re
from typing import Any

import h11
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 2048  # open at once
RESERVED = 64  # beyond them, for health; who comes past those gets 503 and is closed
RESERVED_S = 2.0  # for the head of such a request
OPEN = re.compile(r"/v2/health/(live|ready)|/v2/models/[^/]+(/versions/[^/]+)?/ready")  # health: needs no token

_transports: set[Any] = set()


def unsent() -> int:
    """Bytes of answers that clients have not taken yet, over all connections of this process."""
    return sum(transport.get_write_buffer_size() for transport in _transports)


class Connection(H11Protocol):
    seconds = 30.0  # for a request's head from its first byte, and for taking an answer

    _head: asyncio.TimerHandle | None = None
    _answer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _transports.add(transport)
        over = len(self.connections) - CONNECTIONS
        if over > RESERVED:
            self.limit_concurrency = 0
        elif over > 0:
            self.app, self.seconds = _health_alone(self.app), RESERVED_S
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head, self._answer = _cancelled(self._head), _cancelled(self._answer)
        _transports.discard(self.transport)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer = self._answer or self.loop.call_later(self.seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._answer = _cancelled(self._answer)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch()

    def _watch(self) -> None:
        """Start or stop the clocks by what the client owes."""
        theirs, ours = self.conn.their_state, self.conn.our_state
        owes_head = self.cycle is None or (theirs is h11.IDLE and self.conn.trailing_data[0] != b"")
        # The rest of a body that nobody reads, behind its answer: it is thrown away, but not for ever.
        if owes_head or (ours is h11.DONE and theirs is h11.SEND_BODY):
            self._head = self._head or self.loop.call_later(self.seconds, self._late)
        else:
            self._head = _cancelled(self._head)
        if self.transport.is_closing() and self.transport.get_write_buffer_size():  # it waits to be read, then closes
            self._answer = self._answer or self.loop.call_later(self.seconds, self.transport.abort)

    def _late(self) -> None:
        self._head = None
        self.transport.close()
        self._watch()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _health_alone(app: ASGIApp) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def say(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        if scope["type"] != "http" or OPEN.fullmatch(scope["path"]):
            await app(scope, receive, say)
        else:
            line = f"{CONNECTIONS} connections are open, as many as allowed; come again"
            await JSONResponse({"error": line}, 503, {"retry-after": "1"})(scope, receive, say)

    return answer

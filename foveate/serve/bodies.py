"""Bodies, received within a limit of size, of time, and of memory held by all of them together."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

from foveate.errors import InputError

ENCODINGS = ("identity", "gzip", "deflate")
PIECE = 2**20  # bytes that are unpacked at a time
RAW = ("application/octet-stream", "application/x-www-form-urlencoded", "")  # the second is what curl says by default


class Refused(HTTPException):
    """A status and one line; `reason` is counted where room was lacking."""

    def __init__(
        self, status: int, line: str, reason: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, line, {"retry-after": "1"} if status == 503 else headers)
        self.reason = reason


class Bodies:
    """Receives bodies of at most `limit` bytes in at most `seconds`, and holds at most `total` bytes at once."""

    def __init__(self, limit: int, seconds: float, total: int) -> None:
        self.limit, self.seconds, self.total, self.held = limit, seconds, max(total, limit), 0

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[bytearray]:
        """The whole body, which counts as held until the end of the block.

        Raises:
            Refused: 413 too large (once unpacked, too), 408 too slow, 415 packed otherwise, 503 no memory for it now.
            InputError: packed, and damaged.
        """
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ENCODINGS:
            line = f"content-encoding is {encoding[:40]!r}; allowed: {', '.join(ENCODINGS)}"
            raise Refused(415, line, headers={"accept-encoding": ", ".join(ENCODINGS)})  # RFC 7694
        length = request.headers.get("content-length", "")
        self._check(int(length) if length.isdecimal() and len(length) < 20 else 0)
        body, taken = bytearray(), 0
        try:
            try:
                async with asyncio.timeout(self.seconds):
                    async for chunk in request.stream():
                        self._check(len(body) + len(chunk))
                        if self.held + len(chunk) > self.total:
                            raise Refused(503, "no memory for another body now; come again", "memory")
                        self.held, taken = self.held + len(chunk), taken + len(chunk)
                        body += chunk
            except TimeoutError:
                raise Refused(408, f"the body took longer than {self.seconds:g} s to come") from None
            if encoding != "identity":
                packed, body = bytes(body), bytearray()
                async for part in _unpacked(packed):
                    self._check(len(body) + len(part))
                    if self.held + len(part) > self.total:
                        raise Refused(503, "no memory for another body now; come again", "memory")
                    self.held, taken = self.held + len(part), taken + len(part)
                    body += part
            yield body
        finally:
            self.held -= taken

    def _check(self, size: int) -> None:
        if size > self.limit:
            raise Refused(413, f"the body has over {self.limit} bytes; allowed: at most {self.limit}")


async def _unpacked(packed: bytes) -> AsyncIterator[bytes]:
    """What gzip or deflate packed, a megabyte at a time and off the event loop: a bomb is cut off at the limit.

    Raises:
        InputError: damaged, cut short, or with something behind it.
    """
    reader = zlib.decompressobj(wbits=47)  # by its first bytes: gzip or zlib
    try:
        while not reader.eof:
            part = await asyncio.to_thread(reader.decompress, packed, PIECE)
            packed = reader.unconsumed_tail
            if not part and not packed and not reader.eof:
                raise InputError("the packed body ends too early; allowed: all of it")
            yield part
    except zlib.error as e:
        raise InputError(f"the packed body is damaged: {e}") from None
    if reader.unused_data:
        raise InputError("the packed body has something behind its end; allowed: one stream")


def media_type(request: Request, allowed: tuple[str, ...]) -> str:
    """The body's media type.

    Raises:
        Refused: 415 for one that is not allowed (a name that ends in a slash allows all of its kind).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not any(kind == a or (a.endswith("/") and kind.startswith(a)) for a in allowed):
        shown = ", ".join(f"{a}*" if a.endswith("/") else a for a in allowed if a)
        raise Refused(415, f"content-type is {kind[:80]!r}; allowed: {shown}")
    return kind


def file_of(body: bytearray, content_type: str) -> bytes:
    """The field `file` of a multipart/form-data body.

    Raises:
        InputError: where it is none, or has no such field.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InputError("multipart/form-data without a boundary; allowed: one, and a field file")
    names: list[bytes] = []
    content, header = bytearray(), [b"", b""]

    def value(data: bytes, start: int, end: int) -> None:
        header[1] += data[start:end]

    def field(data: bytes, start: int, end: int) -> None:
        header[0] += data[start:end]

    def header_end() -> None:
        if header[0].lower() == b"content-disposition":
            names.append(parse_options_header(bytes(header[1]))[1].get(b"name", b""))
        header[:] = [b"", b""]

    def part(data: bytes, start: int, end: int) -> None:
        if names[-1:] == [b"file"]:
            content.extend(data[start:end])

    ended: list[bool] = []
    try:
        parser = MultipartParser(
            boundary,
            {"on_header_field": field, "on_header_value": value, "on_header_end": header_end, "on_part_data": part,
             "on_part_begin": lambda: names.append(b""), "on_end": lambda: ended.append(True)},
        )  # fmt: skip
        parser.write(bytes(body))
        parser.finalize()
    except FormParserError as e:
        raise InputError(f"the multipart/form-data body is damaged: {e}") from None
    if not ended:
        raise InputError("the multipart/form-data body ends before its last boundary")
    if names.count(b"file") != 1:
        raise InputError(f"the multipart/form-data body has {names.count(b'file')} fields named file; allowed: one")
    return bytes(content)

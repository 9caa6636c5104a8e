"""A small, finished answer, written to the connection in one piece.

aiohttp prepares a response in a dozen steps, for chunking, compression, cookies and HTTP/1.0, none of which a model's
answer needs. With a no-op model they were an eighth of the front process' time.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from torchserve_lite.core.requests import InferenceResponse

_LARGEST = 64 * 1024  # a larger body needs the flow control of aiohttp's writer
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


def fits(request: web.Request, answer: InferenceResponse) -> bool:
    """Whether ``answer`` may go out in one piece: small, complete, without headers of the handler's own."""
    return (
        answer.stream is None
        and not answer.headers
        and len(answer.body) <= _LARGEST
        and 200 <= answer.status < 600
        and answer.status not in (204, 304)
        and request.method != "HEAD"
        and request.version == HttpVersion11
    )


class WholeResponse(web.StreamResponse):
    """Use where ``fits`` says so. ``common``: header lines that every response carries."""

    def __init__(self, answer: InferenceResponse) -> None:
        super().__init__(status=answer.status)
        self._content = answer.body
        self._line = f"{answer.status} {answer.reason or _PHRASES.get(answer.status, '')}".replace("\r", " ")
        self._type = answer.content_type
        self._open = True
        self.common = ""

    def force_close(self) -> None:
        self._open = False

    @property
    def keep_alive(self) -> bool | None:
        return self._open

    @property
    def prepared(self) -> bool:
        return False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._open = self._open and request.keep_alive
        if request.transport is None:
            raise ConnectionResetError("the client has gone")
        request.transport.write(self._head().encode("latin-1", "replace") + self._content)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Everything has been written by ``prepare``."""

    def _head(self) -> str:
        kind = f"Content-Type: {one_line(self._type)}\r\n" if self._type else ""
        close = "" if self._open else "Connection: close\r\n"
        return (
            f"HTTP/1.1 {one_line(self._line)}\r\n{kind}Content-Length: {len(self._content)}\r\n"
            f"Date: {_date()}\r\n{close}{self.common}\r\n"
        )


def one_line(text: str) -> str:
    """A line break in what a handler set would begin a header, or a response, of its own."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


_dated = (0, "")


def _date() -> str:
    """The Date header's text, made once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, formatdate(now, usegmt=True))
    return _dated[1]

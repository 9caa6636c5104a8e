"""A small, finished answer, written to the connection in one piece.

aiohttp prepares a response in a dozen steps, for chunking, compression, cookies and HTTP/1.0, none of which a model's
answer needs. With a no-op model they were an eighth of the front process' time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from torchserve_lite.core.requests import InferenceResponse

_LARGEST = 64 * 1024  # a larger body needs the flow control of aiohttp's writer
_PHRASES = {status.value: status.phrase for status in HTTPStatus}

WITHOUT_A_BODY = (204, 304)


def fits(request: web.Request, answer: InferenceResponse) -> bool:
    """Whether ``answer`` may go out in one piece: small, complete, and with a body at all."""
    return (
        answer.stream is None
        and len(answer.body) <= _LARGEST
        and answer.status not in WITHOUT_A_BODY
        and request.method != "HEAD"
        and request.version == HttpVersion11
    )


class RawResponse(web.StreamResponse):
    """What aiohttp gets back for an answer that ``send`` has written: it asks for ``prepare``, ``write_eof`` and
    ``keep_alive``, and finds that nothing is left to do. A test holds that it asks for nothing else."""

    def __init__(self, status: int, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._stays_open = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        return self._stays_open

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Everything has been written."""


async def send(
    request: web.Request, answer: InferenceResponse, headers: Iterable[tuple[str, str]], common: str, *, close: bool
) -> RawResponse:
    """Use where ``fits`` says so. ``common``: header lines that every response carries."""
    keep_alive = request.keep_alive and not close
    own = "".join([f"{name}: {value}\r\n" for name, value in headers])
    connection = "" if keep_alive else "Connection: close\r\n"
    head = (
        f"HTTP/1.1 {answer.status} {one_line(answer.reason) or _PHRASES.get(answer.status, '')}\r\n{own}"
        f"Content-Length: {len(answer.body)}\r\nDate: {_date()}\r\n{connection}"
        f"{common}\r\n"
    )
    if request.transport is None:
        raise ConnectionResetError("the client has gone")
    request.transport.write(b"".join((head.encode(), answer.body)))
    await request.writer.drain()
    return RawResponse(answer.status, keep_alive)


def one_line(text: str) -> str:
    """A line break in what a handler set would begin a header, or a response, of its own; a surrogate has no
    encoding."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


_dated = (0, "")


def _date() -> str:
    """The Date header's text, made once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, formatdate(now, usegmt=True))
    return _dated[1]

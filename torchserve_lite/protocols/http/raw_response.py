"""Answers of HTTP/1.1 as bytes, for both ways into the front: the same answer has the same head on either.

aiohttp prepares a response in a dozen steps, for chunking, compression, cookies and HTTP/1.0, none of which a model's
answer needs. With a no-op model they were an eighth of the front process' time.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from torchserve_lite.core.requests import Headers, InferenceResponse

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OF_THE_CONNECTION = frozenset(
    {"connection", "content-length", "keep-alive", "trailer", "transfer-encoding", "upgrade"}
)
_OF_CORS = "access-control-"
_MOST_KNOWN = 256  # handlers that set another header each time must not fill the memory
_UNKNOWN = -1  # length of a streamed answer

WITHOUT_A_BODY = (204, 304)


class Heads:
    """The heads of answers. ``common``: headers that every answer carries. Of these a handler may set those of CORS
    itself, as with TorchServe."""

    def __init__(self, common: Mapping[str, str]) -> None:
        self._common = common
        ours = {name.lower() for name in common if not name.lower().startswith(_OF_CORS)}
        self._not_of_the_handler = _OF_THE_CONNECTION | {"x-request-id", *ours}
        self._until = 0.0  # the end of the second that the known heads have the date of
        self._known: dict[tuple[int, str, str, Headers, int, bool], bytes] = {}  # heads of this second but for the id

    def head(self, answer: InferenceResponse, request_id: str, *, close: bool) -> bytes:
        length = len(answer.body) if answer.stream is None else _UNKNOWN
        facts = (answer.status, answer.reason, answer.content_type, answer.headers, length, close)
        now = time.time()
        if not self._until - 1 <= now < self._until or len(self._known) >= _MOST_KNOWN:
            self._until = int(now) + 1.0
            self._known.clear()
        beginning = self._known.get(facts)
        if beginning is None:
            beginning = self._known[facts] = self._all_but_the_id(answer, int(now), close).encode()
        if answer.timing:
            id_ = request_id.encode()
            return b"".join((beginning, b"Server-Timing: ", answer.timing, b"\r\nx-request-id: ", id_, b"\r\n\r\n"))
        return b"%bx-request-id: %b\r\n\r\n" % (beginning, request_id.encode())

    def _all_but_the_id(self, answer: InferenceResponse, now: int, close: bool) -> str:
        own = self.own_headers(answer)
        lines = "".join([f"{name}: {value}\r\n" for name, value in own])
        common = "".join([f"{name}: {value}\r\n" for name, value in self.common_beside(own)])
        reason = one_line(answer.reason) or _PHRASES.get(answer.status, "")
        if answer.status in WITHOUT_A_BODY:
            length = ""
        elif answer.stream is not None:
            length = "Transfer-Encoding: chunked\r\n"
        else:
            length = f"Content-Length: {len(answer.body)}\r\n"
        connection = "Connection: close\r\n" if close else ""
        date = f"Date: {formatdate(now, usegmt=True)}\r\n"
        return f"HTTP/1.1 {answer.status} {reason}\r\n{lines}{length}{date}{connection}{common}"

    def common_beside(self, own: Headers | list[tuple[str, str]]) -> list[tuple[str, str]]:
        there = {name.lower() for name, _ in own}
        return [(name, value) for name, value in self._common.items() if name.lower() not in there]

    def own_headers(self, answer: InferenceResponse) -> list[tuple[str, str]]:
        """The answer's, without those that are ours or the connection's, and those that are no headers at all."""
        headers = [
            (name, one_line(value))
            for name, value in answer.headers
            if _NAME.fullmatch(name) and name.lower() not in self._not_of_the_handler
        ]
        if answer.content_type and answer.status not in WITHOUT_A_BODY:
            headers = [pair for pair in headers if pair[0].lower() != "content-type"]
            headers.append(("Content-Type", one_line(answer.content_type)))
        return headers


def fits(request: web.Request) -> bool:
    """Whether an answer to ``request`` may go out as bytes of ours."""
    return request.version == HttpVersion11 and request.method != "HEAD"


class RawResponse(web.StreamResponse):
    """What aiohttp gets back for an answer that has been written already: it asks for ``prepare``, ``write_eof`` and
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


def one_line(text: str) -> str:
    """A line break in what a handler set would begin a header, or a response, of its own; a surrogate has no
    encoding."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)

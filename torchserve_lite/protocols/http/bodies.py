"""Request bodies: read within their limit and at a minimum pace, whole or as the parts of a form."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiohttp import HttpVersion10, web
from aiohttp.http import HttpProcessingError

from torchserve_lite.config.settings import HttpConfig
from torchserve_lite.core.memory import unfilled
from torchserve_lite.core.requests import Part
from torchserve_lite.core.streams import Buffer
from torchserve_lite.errors import BodyTooLarge, BodyTooSlow, ExpectationFailed, MalformedRequest
from torchserve_lite.protocols.http import forms
from torchserve_lite.protocols.http.codings import unpacked
from torchserve_lite.protocols.http.requests import header, media_type

_LARGE_FORM = 64 * 1024  # bytes
_CONTINUED = web.RequestKey("100 Continue has been sent", bool)


def check_expectation(request: web.Request) -> None:
    expectation = header(request, "Expect")
    if any(one.strip().lower() not in ("", "100-continue") for one in expectation.split(",")):
        raise ExpectationFailed(expectation)


def awaits_continue(request: web.Request) -> bool:
    """The client holds its body back until it is asked for it, and has not been. HTTP/1.0 has no such thing."""
    return (
        "Expect" in request.headers
        and _CONTINUED not in request
        and request.version != HttpVersion10
        and not request.content.is_eof()
    )


class Bodies:
    """``read`` is the only way by which a body comes in, so that its limits hold for every route."""

    def __init__(self, config: HttpConfig) -> None:
        self._limit = config.max_request_size
        self._window = config.slow_client_seconds
        self._least = int(config.slow_client_seconds * config.slow_client_rate)

    async def read(self, request: web.Request) -> bytearray:
        """The body as it came off the wire. A client that waits for leave to send it gets that here, after its model
        and its announced length have been looked at."""
        if (request.content_length or 0) > self._limit:
            raise BodyTooLarge(self._limit)
        content = request.content
        if awaits_continue(request):
            request[_CONTINUED] = True
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # what aiohttp counts is the answer
        body, filled = unfilled(request.content_length or 0), 0  # what is announced and does not come takes no memory
        pace_is_kept = self._least
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._window if self._least else None) as pace:
                while not content.at_eof():
                    piece = await content.readany()
                    begin, filled = filled, filled + len(piece)
                    if filled > self._limit:
                        raise BodyTooLarge(self._limit)
                    if filled > len(body):  # in chunks, of no announced length; ``+=`` would copy it for each eighth
                        longer = unfilled(min(self._limit, 2 * filled))
                        longer[:begin] = memoryview(body)[:begin]
                        body = longer
                    body[begin:filled] = piece
                    if filled >= pace_is_kept and self._least:
                        pace_is_kept = filled + self._least
                        pace.reschedule(loop.time() + self._window)
            if (broken := content.exception()) is not None:
                raise broken
        except TimeoutError:
            raise BodyTooSlow(self._least, self._window) from None
        except (web.RequestPayloadError, HttpProcessingError) as error:
            reason = (str(error).splitlines() or [""])[0].rstrip(":. ")
            raise MalformedRequest(f"The request body cannot be read: {reason}.") from error
        del body[filled:]
        return body

    async def unpacked(self, request: web.Request) -> Buffer:
        """The body without its Content-Encoding, within the same limit."""
        body = await self.read(request)
        return await unpacked(body, header(request, "Content-Encoding"), self._limit)

    async def parts(self, request: web.Request) -> Sequence[Part]:
        """The parts of a form, or one part ``body``."""
        kind = media_type(request)
        body = await self.read(request)
        if kind.lower() == "multipart/form-data":
            boundary = forms.boundary_of(header(request, "Content-Type"))
            if boundary is not None:
                return forms.multipart(body, boundary)
        if kind.lower() == "application/x-www-form-urlencoded" and b"=" in body:
            if len(body) < _LARGE_FORM:
                return forms.urlencoded(body)
            return await asyncio.to_thread(forms.urlencoded, body)  # a second or more for millions of escapes
        return (Part("body", body, kind),)

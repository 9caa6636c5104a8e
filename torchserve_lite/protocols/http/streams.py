"""Answers that are written as they come."""

from __future__ import annotations

import logging
from typing import cast

from aiohttp import HttpVersion11, web

from torchserve_lite.core.streams import AnswerStream, Buffer
from torchserve_lite.errors import ServingError
from torchserve_lite.protocols.http.connections import Connection
from torchserve_lite.protocols.http.requests import REQUEST_ID

log = logging.getLogger(__name__)


async def stream(request: web.Request, response: web.StreamResponse, first: Buffer, pieces: AnswerStream) -> None:
    """A failure after the first piece can only be told by ending the body without its end mark."""
    connection = cast(Connection, request.protocol)
    if request.version == HttpVersion11:
        response.enable_chunked_encoding()  # a client of HTTP/1.0 reads until the connection is closed
    try:
        await response.prepare(request)
        if first:
            await response.write(first)
        async with pieces:
            async for piece in pieces:
                if piece:
                    connection.written += len(piece)
                    await response.write(piece)
        await response.write_eof()
    except ConnectionError:
        log.info("The reader of the streamed answer to %s has gone", request[REQUEST_ID])
    except ServingError as error:
        log.error("The streamed answer to %s broke off: %s", request[REQUEST_ID], error)
        if request.transport is not None:
            request.transport.abort()

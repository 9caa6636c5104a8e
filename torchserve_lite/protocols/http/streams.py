"""Answers that are written as they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from torchserve_lite.core.streams import AnswerStream, Buffer
from torchserve_lite.errors import ServingError
from torchserve_lite.protocols.http.connections import Client

log = logging.getLogger(__name__)

Write = Callable[[Buffer], Awaitable[None]]


async def stream(client: Client, write: Write, first: Buffer, pieces: AnswerStream, request_id: str) -> None:
    """``write`` waits while the client is behind, and gets an empty piece at the end. A failure after the first piece
    can only be told by ending the body without its end mark."""
    try:
        async with pieces:
            if first:
                client.written += len(first)
                await write(first)
            async for piece in pieces:
                if piece:
                    client.written += len(piece)
                    await write(piece)
        await write(b"")
    except ConnectionError:
        log.info("The reader of the streamed answer to %s has gone", request_id)
    except ServingError as error:
        log.error("The streamed answer to %s broke off: %s", request_id, error)
        client.cut()


def in_chunks(transport: asyncio.WriteTransport, drain: Callable[[], Awaitable[None]]) -> Write:
    async def write(piece: Buffer) -> None:
        if transport.is_closing():
            raise ConnectionResetError("the client has gone")
        transport.write(b"".join((b"%x\r\n" % len(piece), piece, b"\r\n")))
        await drain()

    return write

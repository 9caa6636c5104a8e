"""Answers that are written as they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.core.streams import AnswerStream, Buffer
from torchserve_lite.errors import ServingError
from torchserve_lite.ipc.log_lines import RequestIds
from torchserve_lite.protocols.http.connections import Client
from torchserve_lite.protocols.http.events import HEARTBEAT, Pieces

log = logging.getLogger(__name__)

Write = Callable[[Buffer], Awaitable[None]]


async def stream(client: Client, write: Write, answer: InferenceResponse, pieces: Pieces, request_id: str) -> None:
    """``write`` waits while the client is behind, and gets an empty piece at the end. A failure that ``pieces`` cannot
    tell ends the body without its end mark."""
    assert answer.stream is not None
    try:
        async with answer.stream as coming:
            piece: Buffer | None = answer.body
            try:
                while piece is not None:
                    if ready := pieces.piece(piece):
                        await write(ready)
                    piece = await _next_piece(coming, pieces, write)
                last = pieces.rest()
            except ServingError as error:
                about = {"request_ids": RequestIds.of([request_id])}
                log.error("The streamed answer to %s broke off: %s", request_id, error, extra=about)
                told = pieces.failure(error)
                if told is None:
                    client.cut()
                    return
                last = told
        if last:
            await write(last)
        await write(b"")
    except ConnectionError:
        about = {"request_ids": RequestIds.of([request_id])}
        log.info("The reader of the streamed answer to %s has gone", request_id, extra=about)


async def _next_piece(coming: AnswerStream, pieces: Pieces, write: Write) -> Buffer | None:
    """None at the end. While nothing comes, heartbeats are written where ``pieces`` wants them."""
    if pieces.heartbeat is None:
        return await anext(coming, None)
    while True:
        try:
            async with asyncio.timeout(pieces.heartbeat):
                return await anext(coming, None)
        except TimeoutError:
            if pieces.may_beat:
                await write(HEARTBEAT)


def until_closed(client: Client, send: Write) -> Write:
    """For a body whose end is that of the connection."""

    async def write(piece: Buffer) -> None:
        client.written += len(piece)
        await send(piece)

    return write


def in_chunks(client: Client, transport: asyncio.WriteTransport, drain: Callable[[], Awaitable[None]]) -> Write:
    async def write(piece: Buffer) -> None:
        if transport.is_closing():
            raise ConnectionResetError("the client has gone")
        chunk = b"".join((b"%x\r\n" % len(piece), piece, b"\r\n"))
        client.written += len(chunk)  # as it is on the wire: the chunk of a short piece is several times as long
        transport.write(chunk)
        await drain()

    return write

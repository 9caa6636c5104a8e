"""A large body on its way in, received straight into the memory that the worker is sent it from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from torchserve_lite.core.memory import Memory


class IncomingBody(asyncio.BufferedProtocol):
    """Has the transport of its ``owner`` until ``body`` is full, and then calls ``done`` with it.

    What a protocol is handed as bytes has been copied by then and would be copied again, into the body: with 10 MB that
    was half of the server's work. ``filled`` bytes have come already. What comes behind the body stays in the socket.
    """

    def __init__(
        self,
        owner: asyncio.Protocol,
        transport: asyncio.Transport,
        body: Memory,
        filled: int,
        done: Callable[[Memory], None],
    ) -> None:
        self._owner = owner
        self._transport = transport
        self._done = done
        self._body = body
        self.filled = filled  # bytes of it that have come
        transport.set_protocol(self)

    def give_up(self) -> bytes:
        """What has come. The transport is its owner's again."""
        self._transport.set_protocol(self._owner)
        return bytes(memoryview(self._body)[: self.filled])

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._body)[self.filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self.filled += nbytes
        if self.filled == len(self._body):
            self._transport.set_protocol(self._owner)
            body, self._body = self._body, bytearray()  # uvloop's transport knows us until it has another such protocol
            self._done(body)

    def eof_received(self) -> bool | None:
        return self._owner.eof_received()

    def pause_writing(self) -> None:
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        self._owner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.connection_lost(exc)

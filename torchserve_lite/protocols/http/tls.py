"""Encrypted connections: a handshake first, and then one as any other."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self, cast

from torchserve_lite.protocols.certificates import Certificates
from torchserve_lite.protocols.http.connections import Client
from torchserve_lite.protocols.http.fast_path import Connection, Front

log = logging.getLogger(__name__)

_HANDSHAKE = 0x16  # the first byte of every connection that speaks TLS
_GOODBYE = 5.0  # seconds for a client's own word that it has done, when we close
_TO_READ_WHY = 2.0  # seconds for a client that is refused; closed at once, its connection might be reset before


class Handshakes:
    """Those of one listener, which end with it. ``seconds``: within which each has to be done."""

    def __init__(self, certificates: Certificates, front: Front, seconds: float) -> None:
        self.certificates = certificates
        self.front = front
        self.seconds = seconds
        self.tasks: set[asyncio.Task[asyncio.Transport | None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Handshake(Client):
    """A client of an encrypted listener, until its handshake is done and an ``EncryptedConnection`` takes over.

    A server of the event loop's own would begin TLS as soon as somebody connects. Then plain HTTP cannot be answered,
    clients that do not go on with their handshake are not counted, and nobody tells how much of an answer the system
    has taken. So the first byte is looked at here, and the transport below the encrypted one is kept.
    """

    __slots__ = ("_early", "_handshakes", "_shaking", "_to_read_why")

    def __init__(self, handshakes: Handshakes) -> None:
        super().__init__()
        self._handshakes = handshakes
        self._early = _Early()
        self._shaking: asyncio.Task[asyncio.Transport | None] | None = None
        self._to_read_why: asyncio.TimerHandle | None = None  # runs when the client has been refused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if not self._handshakes.front.clients.enter(self):
            self.cut()  # without a word, which would have to be encrypted

    def data_received(self, data: bytes) -> None:
        if self._to_read_why is not None:
            return
        if data[0] == _HANDSHAKE:
            self._begin(data)
        elif data[:1].isalpha():  # the method of a request
            self._refuse()
        else:
            log.info("What %s sent to an encrypted listener is neither TLS nor HTTP", self.peer)
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        self._handshakes.front.clients.leave(self)
        if self._to_read_why is not None:
            self._to_read_why.cancel()
        if self._shaking is not None:
            self._shaking.cancel()

    def _refuse(self) -> None:
        assert self.transport is not None
        log.info("%s spoke plain HTTP to an encrypted listener", self.peer)
        self.transport.write(self._handshakes.front.refusals.https_only())
        self.transport.write_eof()
        self._to_read_why = asyncio.get_running_loop().call_later(_TO_READ_WHY, self.close)

    def _begin(self, first: bytes) -> None:
        assert self.transport is not None
        self.transport.pause_reading()
        loop = asyncio.get_running_loop()
        self._shaking = loop.create_task(
            loop.start_tls(
                self.transport,
                self._early,
                self._handshakes.certificates.context,
                server_side=True,
                ssl_handshake_timeout=self._handshakes.seconds,
                ssl_shutdown_timeout=_GOODBYE,
            )
        )
        self._handshakes.tasks.add(self._shaking)
        self._shaking.add_done_callback(self._done)
        # In its first step start_tls has its own protocol connected soon; what has come follows right behind that
        loop.call_soon(loop.call_soon, _hand_over, self.transport, first)

    def _done(self, shaking: asyncio.Task[asyncio.Transport | None]) -> None:
        front, wire = self._handshakes.front, self.transport
        assert wire is not None
        self._handshakes.tasks.discard(shaking)
        front.clients.leave(self)
        if shaking.cancelled():
            wire.abort()
        elif error := shaking.exception():
            if not isinstance(error, OSError):
                log.error("The TLS handshake of %s failed unexpectedly", self.peer, exc_info=error)
            else:
                log.info("The TLS handshake of %s failed: %s", self.peer, error.strerror or error)
            wire.abort()
        elif (transport := shaking.result()) is not None and not self._early.is_lost:
            connection = EncryptedConnection(front, wire)
            transport.set_protocol(connection)
            connection.connection_made(transport)
            for data in self._early.come:
                if not transport.is_closing():
                    connection.data_received(data)


class EncryptedConnection(Connection):
    """``wire``: the transport below its own, which has what is encrypted already."""

    __slots__ = ("_wire",)

    def __init__(self, front: Front, wire: asyncio.Transport) -> None:
        super().__init__(front)
        self._wire = wire

    @property
    def unsent(self) -> int:
        return super().unsent + (self._wire.get_write_buffer_size() if self.transport is not None else 0)


class _Early(asyncio.Protocol):
    """Keeps what a client sends in the moment between its handshake and its ``EncryptedConnection``."""

    def __init__(self) -> None:
        self.come: list[bytes] = []
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.come.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True


def _hand_over(transport: asyncio.Transport, data: bytes) -> None:
    """As if it came now, to who reads from ``transport`` by now."""
    protocol = cast(asyncio.BufferedProtocol, transport.get_protocol())
    left = memoryview(data)
    while left and not transport.is_closing():
        buffer = memoryview(protocol.get_buffer(len(left)))
        size = min(len(buffer), len(left))
        buffer[:size] = left[:size]
        protocol.buffer_updated(size)
        left = left[size:]

"""A client's connection, as aiohttp speaks it but for its answer to what is no HTTP; how many there may be; and the
watch over clients that do not take their answers."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import logging
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, cast

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from torchserve_lite.config.settings import HttpConfig
from torchserve_lite.errors import HeadTooSlow, ServingError, TooManyConnections

log = logging.getLogger(__name__)

_HANDSHAKE = 0.05  # seconds in which a client whose handshake has begun can finish it
_SO_ATTACH_FILTER = 26  # Linux, asm-generic/socket.h; the module socket does not name it
_DROP_SYN = (  # classic BPF (linux/filter.h) over the TCP header: code, jump if true, jump if false, operand
    (0x30, 0, 0, 13),  # load the byte with the flags
    (0x45, 0, 1, 0x02),  # is SYN among them?
    (0x06, 0, 0, 0),  # yes: keep no byte of the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # no: keep all
)

_SAY_AGAIN = 60.0  # seconds between two warnings that there are too many clients
_LOOKED_AT = 100  # idle connections of which one is closed; more cannot be looked at for each new client


class Answers(Protocol):
    """What a connection says where no route answers."""

    def refuse(
        self, request: web.BaseRequest, status: int, error: BaseException | None, message: str
    ) -> web.StreamResponse:
        """In place of aiohttp's line of plain text: to what is no HTTP, or when aiohttp itself failed."""

    def last_words(self, error: ServingError) -> bytes:
        """A whole answer, for a client that has sent no request yet and whose connection is closed."""


class Clients:
    """The connections of all listeners, of which at most ``most`` are open: workers and files need descriptors as well.
    A new client takes the place of the one that has been idle for longest, with half a request's head or none."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = 0
        self._idle: dict[Connection, None] = {}  # the longest idle first
        self._said = -_SAY_AGAIN

    def enter(self, connection: Connection) -> bool:
        """Whether there is room."""
        if self._open >= self._most:
            self._warn(asyncio.get_running_loop().time())
            if not self._close_an_idle_one():
                return False
        self._open += 1
        self._idle[connection] = None
        return True

    def leave(self, connection: Connection) -> None:
        self._open -= 1
        self._idle.pop(connection, None)

    def busy(self, connection: Connection) -> None:
        self._idle.pop(connection, None)

    def idle(self, connection: Connection) -> None:
        self._idle[connection] = None

    def _close_an_idle_one(self) -> bool:
        for connection in itertools.islice(self._idle, _LOOKED_AT):
            if connection.is_waiting:
                del self._idle[connection]
                connection.force_close()
                return True
        return False

    def _warn(self, now: float) -> None:
        if now >= self._said + _SAY_AGAIN:
            self._said = now
            log.warning(
                "%d clients are connected, which leaves just enough open files for workers. Idle ones are closed for "
                "new ones, or new ones are turned away with 503. Raise the limit of open files (ulimit -n).",
                self._open,
            )


class Connection(web.RequestHandler):
    """One of ``clients``. ``header_seconds``: within which a request's head has to come, from its first byte on."""

    __slots__ = (
        "_answered",
        "_answers",
        "_body",
        "_clients",
        "_entered",
        "_head_timer",
        "_header_seconds",
        "asked",
        "goal",
        "written",
    )

    def __init__(
        self, server: web.Server, answers: Answers, clients: Clients, header_seconds: float, **facts: Any
    ) -> None:
        super().__init__(server, **facts)
        self._answers = answers
        self._clients = clients
        self._entered = False
        self._header_seconds = header_seconds
        self._head_timer: asyncio.TimerHandle | None = None  # runs while half a head has come
        self._body: StreamReader = EMPTY_PAYLOAD  # of the request that came last
        self._answered: StreamReader | None = None  # the body of the request that was answered last
        self.asked = False  # it has sent a request
        self.written = 0  # bytes of answers' bodies; heads are too short to matter
        self.goal = 0.0  # how many of them its client should have taken by the end of this window

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._entered = self._clients.enter(self)
        if self._entered:
            super().connection_made(transport)
        else:
            self._force_close = True  # whatever comes is not read
            cast(asyncio.Transport, transport).write(self._answers.last_words(TooManyConnections()))
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._entered:
            self._entered = False
            self._clients.leave(self)
        self._stop_head_timer()
        super().connection_lost(exc)

    def begin_request(self) -> None:
        self.asked = True
        self._clients.busy(self)

    def end_request(self) -> None:
        if self._entered:  # and has not been lost meanwhile
            self._clients.idle(self)

    @property
    def is_waiting(self) -> bool:
        """For a request, with nothing to be done or sent."""
        if self._waiter is None or self._messages or self.transport is None:
            return False
        return not self.transport.get_write_buffer_size()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages:
            message, body = self._messages[-1]
            if not isinstance(message, _ErrInfo):
                self._body = body
            elif not self._body.is_eof():
                self._messages.pop()
                self._break_body(message.message)
        if self.is_waiting and data.strip(b"\r\n"):  # some clients send a line break after a body
            if self._head_timer is None:
                self._head_timer = self._loop.call_later(self._header_seconds, self._give_head_up)
        else:
            self._stop_head_timer()

    def _break_body(self, message: str) -> None:
        """aiohttp would wait for the rest of the body, and answer what it cannot read as a request of its own."""
        if self._body is self._answered:
            self.force_close()
        self._body.set_exception(web.RequestPayloadError(message))
        self._body.feed_eof()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_head_up(self) -> None:
        self._head_timer = None
        if self.is_waiting and self.transport is not None:
            self.transport.write(self._answers.last_words(HeadTooSlow(self._header_seconds)))
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("An answer has begun already; another one would be taken for its body.")
        response = self._answers.refuse(request, status, exc, message or "")
        response.force_close()
        return response

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """aiohttp's router answers by itself where there is no path at all: ``OPTIONS *``, ``CONNECT host:port``."""
        self._answered = request.content
        if isinstance(resp, web.HTTPException):
            resp = self._answers.refuse(request, resp.status, resp, "")
        return super().finish_response(request, resp, start_time)


async def stop_accepting(server: asyncio.Server, connect: Callable[[], asyncio.Protocol]) -> None:
    """Closes a listening socket without a loss. Clients that the kernel has connected and nobody has accepted yet would
    be reset with it, so they are accepted here, by a second hold on the socket, and served.

    Nobody may connect between the last accept and the close, so new clients are turned away first: their attempts are
    not answered, and find a closed port when they are repeated.
    """
    holds = [socket.socket(fileno=os.dup(listening.fileno())) for listening in server.sockets]
    for hold in holds:
        _ignore_new_clients(hold)
    server.close()
    await asyncio.sleep(_HANDSHAKE)
    accepted = []
    for hold in holds:
        with hold:
            accepted += _accept_all(hold)
    for client in accepted:
        client.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(connect, client)


def _ignore_new_clients(listening: socket.socket) -> None:
    """Drops SYN packets that come for a TCP socket, and lets handshakes go on that have begun. Linux only: elsewhere,
    and for a Unix socket, nothing is done."""
    program = b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN)
    memory = ctypes.create_string_buffer(program)
    with contextlib.suppress(OSError):
        if listening.family in (socket.AF_INET, socket.AF_INET6):
            filter_program = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(memory))
            listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)


def _accept_all(listening: socket.socket) -> list[socket.socket]:
    """Everybody whom the kernel has connected."""
    accepted = []
    listening.setblocking(False)
    with contextlib.suppress(OSError):  # the last accept finds nobody
        while True:
            accepted.append(listening.accept()[0])
    return accepted


class SlowReaders:
    """Cuts the connections of clients that do not take their answers at the minimum pace. Until then the answer holds
    memory, and a streamed one holds its worker.

    The pace is looked at once in each window: of what had been written by its beginning, either everything or as much
    as the least must have been taken by its end. So a connection that was idle, or has just got a new answer, is never
    mistaken for a slow one.
    """

    def __init__(self, config: HttpConfig) -> None:
        self._window = config.slow_client_seconds
        self._least = config.slow_client_seconds * config.slow_client_rate

    async def watch(self, connections: Callable[[], Iterable[Connection]]) -> None:
        """Runs until it is cancelled."""
        while True:
            await asyncio.sleep(self._window)
            self.check(connections())

    def check(self, connections: Iterable[Connection]) -> None:
        """The end of a window, and the beginning of the next."""
        for connection in connections:
            waiting = 0 if connection.transport is None else connection.transport.get_write_buffer_size()
            taken = connection.written - waiting
            if waiting and taken < connection.goal and connection.transport is not None:
                log.warning(
                    "%s is cut off: in %g s it took fewer than %d bytes of its answer (slow_client_seconds, "
                    "slow_client_bytes_per_second).",
                    connection.peername,
                    self._window,
                    self._least,
                )
                connection.transport.abort()
            connection.goal = min(connection.written, taken + self._least) if waiting else 0.0

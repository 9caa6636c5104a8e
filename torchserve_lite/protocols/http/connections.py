"""Clients' connections: how many there may be, for how long they may be idle, and the watch over those that do not take
their answers; and how aiohttp speaks to one, but for its answer to what is no HTTP."""

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
from typing import Any, Protocol

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from torchserve_lite.config.settings import HttpConfig
from torchserve_lite.errors import HeadTooSlow, ServingError
from torchserve_lite.protocols.http.access_log import peer_name

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
_LOOK_AT_IDLE = 1.0  # seconds between two looks for clients that have been idle for too long
_LOOKED_AT = 100  # idle connections of which one is closed; more cannot be looked at for each new client


class Answers(Protocol):
    """What a connection says where no route answers."""

    def refuse(
        self, request: web.BaseRequest, status: int, error: BaseException | None, message: str
    ) -> web.StreamResponse:
        """In place of aiohttp's line of plain text: to what is no HTTP, or when aiohttp itself failed."""

    def last_words(self, error: ServingError) -> bytes:
        """A whole answer, for a client that has sent no request yet and whose connection is closed."""

    def https_only(self) -> bytes:
        """The same for a client that speaks plain HTTP to an encrypted listener."""


class Client(asyncio.Protocol):
    """A client's connection, whoever reads its requests."""

    __slots__ = ("_peer", "asked", "goal", "transport", "written")

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.asked = False  # it has sent a request
        self.written = 0  # bytes of answers' bodies, with what frames them; heads are too short to matter
        self.goal = 0.0  # how many of them its client should have taken by the end of this window
        self._peer = ""

    @property
    def peer(self) -> str:
        """Who it is, as the logs show it."""
        if not self._peer and self.transport is not None:
            self._peer = peer_name(self.transport)
        return self._peer

    @property
    def unsent(self) -> int:
        """Bytes that have been written and that the system has not taken yet."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    @property
    def is_waiting(self) -> bool:
        """For a request, with nothing to be done or sent."""
        return self.transport is not None and not self.unsent

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def cut(self) -> None:
        """What has not been sent is not sent any more."""
        if self.transport is not None:
            self.transport.abort()


class Clients:
    """The connections of all listeners, of which at most ``most`` are open: workers and files need descriptors as well.
    A new client takes the place of the one that has been idle for longest, with half a request's head or none; and one
    that is idle for ``keep_alive`` seconds is closed."""

    def __init__(self, most: int, keep_alive: float) -> None:
        self.open: set[Client] = set()
        self._most = most
        self._keep_alive = keep_alive
        self._idle: dict[Client, float] = {}  # since when; the longest idle first
        self._loop = asyncio.get_running_loop()
        self._said = -_SAY_AGAIN

    def enter(self, client: Client) -> bool:
        """Whether there is room."""
        if len(self.open) >= self._most:
            self._warn(self._loop.time())
            if not self._close_an_idle_one():
                return False
        self.open.add(client)
        self._idle[client] = self._loop.time()
        return True

    def leave(self, client: Client) -> None:
        self.open.discard(client)
        self._idle.pop(client, None)

    def busy(self, client: Client) -> None:
        self._idle.pop(client, None)

    def idle(self, client: Client) -> None:
        if client in self.open:  # and has not been lost meanwhile
            self._idle[client] = self._loop.time()

    async def watch(self) -> None:
        """Runs until it is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_AT_IDLE)
            before = self._loop.time() - self._keep_alive
            for client, since in list(self._idle.items()):
                if since > before:
                    break
                if client.is_waiting:
                    del self._idle[client]
                    client.close()

    def _close_an_idle_one(self) -> bool:
        for client in itertools.islice(self._idle, _LOOKED_AT):
            if client.is_waiting:
                self.leave(client)
                client.close()
                return True
        return False

    def _warn(self, now: float) -> None:
        if now >= self._said + _SAY_AGAIN:
            self._said = now
            log.warning(
                "%d clients are connected, which leaves just enough open files for workers. Idle ones are closed for "
                "new ones, or new ones are turned away with 503. Raise the limit of open files (ulimit -n).",
                len(self.open),
            )


class AiohttpConnection(web.RequestHandler):
    """How aiohttp reads and answers what ``client`` sends. ``header_seconds``: within which a request's head has to
    come, from its first byte on."""

    __slots__ = (
        "_answered",
        "_answers",
        "_body",
        "_first_head",
        "_head_timer",
        "_header_seconds",
        "_passed",
        "_tail",
        "client",
    )

    def __init__(
        self, server: web.Server, answers: Answers, client: Client, header_seconds: float, **facts: Any
    ) -> None:
        super().__init__(server, **facts)
        self.client = client
        self._answers = answers
        self._header_seconds = header_seconds
        self._head_timer: asyncio.TimerHandle | None = None  # runs while half a head has come
        self._body: StreamReader = EMPTY_PAYLOAD  # of the request that came last
        self._answered: StreamReader | None = None  # the body of the request that was answered last
        self._tail = b""  # the last bytes that came
        self._first_head = 0  # the size of the head that came first since it was at rest
        self._passed = 0  # bytes that have come since

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    @property
    def is_waiting(self) -> bool:
        """For a request, with nothing to be done."""
        begun = self._request_count > 0  # else its task may not have come to wait yet
        return (self._waiter is not None or not begun) and not self._messages and self.transport is not None

    @property
    def is_at_rest(self) -> bool:
        """It is waiting, and has no byte of the next request: others may read what comes now. aiohttp's parser does not
        tell the latter, so it is said only where it can be counted: one request has come and nothing behind its body,
        or the last bytes that came were an empty line, as ends a head or chunks."""
        if not self.is_waiting:
            return False
        return self._tail == b"\r\n\r\n" or self._passed == self._first_head + self._body.total_bytes

    def data_received(self, data: bytes) -> None:
        if not self.is_at_rest or data.replace(b"\r\n", b""):  # some clients send a line break after a body
            self._count(data)
        super().data_received(data)
        if self._messages:
            message, body = self._messages[-1]
            if not isinstance(message, _ErrInfo):
                self._body = body
            elif not self._body.is_eof():
                self._messages.pop()
                self._break_body(message.message)
        if self.is_waiting and data.strip(b"\r\n"):
            if self._head_timer is None:
                self._head_timer = self._loop.call_later(self._header_seconds, self._give_head_up)
        else:
            self._stop_head_timer()

    def _count(self, data: bytes) -> None:
        if self.is_at_rest:
            self._first_head = self._passed = 0
            self._body, self._tail = EMPTY_PAYLOAD, b""
        if not self._first_head and (end := (self._tail + data).find(b"\r\n\r\n")) >= 0:
            self._first_head = self._passed - len(self._tail) + end + 4
        self._passed += len(data)
        self._tail = (self._tail + data[-4:])[-4:]

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
        ignore_new_clients(hold)
    server.close()
    await asyncio.sleep(_HANDSHAKE)
    accepted = []
    for hold in holds:
        with hold:
            accepted += _accept_all(hold)
    for client in accepted:
        client.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(connect, client)


def ignore_new_clients(listening: socket.socket) -> None:
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

    async def watch(self, clients: Iterable[Client]) -> None:
        """Runs until it is cancelled."""
        while True:
            await asyncio.sleep(self._window)
            self.check(clients)

    def check(self, clients: Iterable[Client]) -> None:
        """The end of a window, and the beginning of the next."""
        for client in clients:
            waiting = client.unsent
            taken = client.written - waiting
            if waiting and taken < client.goal:
                log.warning(
                    "%s is cut off: in %g s it took fewer than %d bytes of its answer (slow_client_seconds, "
                    "slow_client_bytes_per_second).",
                    client.peer,
                    self._window,
                    self._least,
                )
                client.cut()
            client.goal = min(client.written, taken + self._least) if waiting else 0.0

"""A client's connection, as aiohttp speaks it but for its answer to what is no HTTP; and the watch over clients that do
not take their answers."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from aiohttp import web

from torchserve_lite.config.settings import HttpConfig

log = logging.getLogger(__name__)

_HANDSHAKE = 0.05  # seconds in which a client whose handshake has begun can finish it
_SO_ATTACH_FILTER = 26  # Linux, asm-generic/socket.h; the module socket does not name it
_DROP_SYN = (  # classic BPF (linux/filter.h) over the TCP header: code, jump if true, jump if false, operand
    (0x30, 0, 0, 13),  # load the byte with the flags
    (0x45, 0, 1, 0x02),  # is SYN among them?
    (0x06, 0, 0, 0),  # yes: keep no byte of the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # no: keep all
)

Refuse = Callable[[web.BaseRequest, int, BaseException | None, str], web.StreamResponse]


class Connection(web.RequestHandler):
    """``refuse`` makes the answer where aiohttp would send a line of plain text: to what is no HTTP, or when aiohttp
    itself failed."""

    __slots__ = ("_refuse", "asked", "goal", "written")

    def __init__(self, server: web.Server, refuse: Refuse, **facts: Any) -> None:
        super().__init__(server, **facts)
        self._refuse = refuse
        self.asked = False  # it has sent a request
        self.written = 0  # bytes of answers' bodies; heads are too short to matter
        self.goal = 0.0  # how many of them its client should have taken by the end of this window

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("An answer has begun already; another one would be taken for its body.")
        response = self._refuse(request, status, exc, message or "")
        response.force_close()
        return response

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """aiohttp's router answers by itself where there is no path at all: ``OPTIONS *``, ``CONNECT host:port``."""
        if isinstance(resp, web.HTTPException):
            resp = self._refuse(request, resp.status, resp, "")
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

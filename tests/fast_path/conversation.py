"""Plays a case to a server byte by byte, and gives back everything that came until the connection was closed."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.e2e.server import PATIENCE
from tests.fast_path.corpus import LAST, Case

_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_DATE = re.compile(rb"(?i)\r\ndate: [^\r\n]*")
_TIMING = re.compile(rb"(?i)\r\nserver-timing: ((?:[a-z]+;dur=[\d.]+(?:, )?)+)(?=\r\n)")
_DURATION = re.compile(rb"dur=[\d.]+")
_PEER = re.compile(rb"/127\.0\.0\.1:\d+")


def masked(received: bytes) -> bytes:
    """Without what differs between any two answers: ids, dates and durations."""
    received = _TIMING.sub(lambda match: b"\r\nServer-Timing: " + _DURATION.sub(b"<dur>", match[1]), received)
    return _PEER.sub(b"<peer>", _DATE.sub(b"\r\nDate: <date>", _ID.sub(b"<id>", received)))


class Answers:
    """The client's end of a connection. A reset is an end like any other: what came before it counts."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._reader = asyncio.StreamReader(limit=2**20)
        self.received = bytearray()
        self.closes = False  # an answer has said so, or the connection is closed

    async def read_on(self) -> None:
        """Until the server closes."""
        loop = asyncio.get_running_loop()
        data = b"more"
        while data:
            try:
                data = await loop.sock_recv(self._socket, 2**18)
            except ConnectionError:
                data = b""
            self.received += data
            self._reader.feed_data(data)
        self._reader.feed_eof()

    async def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # the server has closed, and what it said before is what counts
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def next_one(self, *, without_body: bool) -> None:
        """Reads one whole answer, or up to the end of the connection when that comes before."""
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            self.closes = b"\r\nconnection: close\r\n" in head
            length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head)
            if without_body or head[9:12] in (b"100", b"204", b"304"):
                return
            if length:
                await self._reader.readexactly(int(length[1]))
            elif b"\r\ntransfer-encoding: chunked\r\n" in head:
                while size := int(await self._reader.readuntil(b"\r\n"), 16):
                    await self._reader.readexactly(size + 2)
                await self._reader.readuntil(b"\r\n")
            else:
                await self._reader.read()
        except asyncio.IncompleteReadError:
            self.closes = True


class Watch:
    """``seen`` returns when the server has read whatever was sent before: it has then answered on a connection that was
    made later, and connections are accepted in their order. Whoever asks meanwhile shares the next such round trip."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._waiting: list[asyncio.Future[None]] = []
        self._wanted = asyncio.Event()
        self.requests = 0

    async def seen(self) -> None:
        seen = asyncio.get_running_loop().create_future()
        self._waiting.append(seen)
        self._wanted.set()
        await seen

    async def run(self) -> None:
        while await self._wanted.wait():
            self._wanted.clear()
            waiting, self._waiting = self._waiting, []
            self.requests += 1
            with await connected(self._url) as connection:
                answers = Answers(connection)
                await answers.send(b"GET /v2/health/live?watch HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                await answers.read_on()
            for one in waiting:
                if not one.done():
                    one.set_result(None)


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[Watch]:
    watch = Watch(url)
    running = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        await _ended(running)


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancelled and gone: only then may the socket that it looks at be closed."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def connected(url: str) -> socket.socket:
    address = urlsplit(url)
    connection = socket.socket()
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await asyncio.get_running_loop().sock_connect(connection, (address.hostname, address.port))
    return connection


async def transcript(url: str, watch: Watch, case: Case) -> bytes:
    """All that the server sent until it closed, masked."""
    with await connected(url) as connection:
        answers = Answers(connection)
        reading = asyncio.create_task(answers.read_on())
        try:
            async with asyncio.timeout(PATIENCE):
                await _talk(case, answers, watch)
                if case.leaves:
                    await watch.seen()  # what can be answered at once has been
                    with contextlib.suppress(OSError):  # it has closed
                        connection.shutdown(socket.SHUT_WR)
                elif not answers.closes:
                    await answers.send(LAST)
                await reading
        finally:
            await _ended(reading)
        return masked(bytes(answers.received))


async def _talk(case: Case, answers: Answers, watch: Watch) -> None:
    if any(len(step.segments) > 1 for step in case.steps):
        await watch.seen()  # the connection is accepted: what comes before waits there, and comes together
    for step in case.steps:
        for number, segment in enumerate(step.segments):
            if number:
                await watch.seen()
            await answers.send(segment)
        for _ in range(step.answers):
            if not answers.closes:
                await answers.next_one(without_body=step.without_bodies)

"""The short way into the front: plain inference requests are read and answered here, all else is aiohttp's.

What is not plain (``plain.py``) goes to aiohttp byte for byte, on the same connection; as soon as aiohttp is at rest
again, the next request is looked at here. aiohttp's own way costs 20 us a request: a task, a stream reader, a URL, a
request and a response object.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.memory import Memory
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.core.streams import Buffer
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import TooManyConnections
from torchserve_lite.ipc.slabs import LEAST
from torchserve_lite.protocols.http import raw_response
from torchserve_lite.protocols.http.answers import new_request_id
from torchserve_lite.protocols.http.connections import AiohttpConnection, Answers, Client, Clients
from torchserve_lite.protocols.http.exchange import Exchange
from torchserve_lite.protocols.http.guard import Guard
from torchserve_lite.protocols.http.incoming import IncomingBody
from torchserve_lite.protocols.http.plain import Head, PlainHeads
from torchserve_lite.protocols.http.streams import in_chunks, stream

log = logging.getLogger(__name__)

_MOST_HELD = 64 * 1024  # bytes that may wait behind a request that is being answered
_MOST_PIECES = 16  # in which they may have come
_PATIENCE = 0.25  # seconds in which a body has to come whole, or to come nearer to it by
_PROGRESS = 256 * 1024  # bytes; then aiohttp waits for it, with all its limits
_LARGE = 64 * 1024  # bytes of a body that are still to come, from which on it gets the transport to itself
_JOINED = 16 * 1024  # bytes of a body up to which copying it behind its head is cheaper than two pieces for the system
_NOTHING = bytearray()


@dataclass(frozen=True, slots=True)
class Front:
    """What stands behind the connections of one listener."""

    clients: Clients
    refusals: Answers
    exchange: Exchange
    plane: DataPlane
    plain: PlainHeads
    guard: Guard
    speak_aiohttp: Callable[[Client], AiohttpConnection]
    unsent: list[tuple[Connection, bytes, InferenceResponse, bool]] = field(default_factory=list)

    def send_soon(self, connection: Connection, head: bytes, answer: InferenceResponse, close: bool) -> None:
        """At the end of this turn of the event loop, with the answers to all of a batch: a client that waits on another
        core is woken once for all of them, where waking it for each costs more than the answer does. A large one goes
        at once: its memory is free as soon as it has been taken, and not after what else this turn brings."""
        self.unsent.append((connection, head, answer, close))
        if len(answer.body) >= LEAST:
            self._send()
        elif len(self.unsent) == 1:
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        unsent = self.unsent[:]
        self.unsent.clear()
        for connection, head, answer, _ in unsent:
            try:
                connection.send(head, answer)
            except Exception:
                connection.give_up()
        for connection, _, answer, close in unsent:
            try:
                connection.answered(answer.status, close=close)
            except Exception:
                connection.give_up()


class Connection(Client):
    """A client's connection. It reads and answers plain requests by itself, one after the other, and hands everything
    else to aiohttp, which is made when it is first needed.

    A request that is being read or answered here has a ``_head``; from when its body has come, it is also ``_asked``.
    Bytes that come behind it are ``_held``. While aiohttp has the connection, there are neither.

    Nothing may follow a plain request in the same piece: aiohttp refuses the whole piece when it cannot read the end of
    it, and pipelines are too rare to be worth a second opinion.
    """

    # fmt: off
    __slots__ = (
        "_aiohttp", "_asked", "_begun", "_body", "_filled", "_front", "_full", "_head", "_held", "_id", "_incoming",
        "_job", "_last_head", "_room", "_stopped_reading", "_streaming", "_timer",
    )
    # fmt: on

    def __init__(self, front: Front) -> None:
        super().__init__()
        self._front = front
        self._aiohttp: AiohttpConnection | None = None
        self._body: Memory = _NOTHING  # while it comes in pieces
        self._filled = 0  # bytes of it that have come
        self._incoming: IncomingBody | None = None  # a large one, which has the transport meanwhile
        self._held: list[bytes] = []
        self._stopped_reading = False
        self._full = False  # the client is behind with taking its answers
        self._room: asyncio.Future[None] | None = None  # until it is not any more
        self._head: Head | None = None
        self._last_head: Head | None = None
        self._asked = False
        self._begun = 0.0
        self._id = ""
        self._job: Job | None = None
        self._streaming: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None  # until when the body may be incomplete

    @property
    def is_waiting(self) -> bool:
        mine = self._head is None and super().is_waiting
        return mine and (self._aiohttp is None or self._aiohttp.is_waiting)

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if not self._front.clients.enter(self):
            self.transport.write(self._front.refusals.last_words(TooManyConnections()))
            self.transport.close()
            return
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        if self._asked or self._held:
            self._hold(data)
        else:
            self._take(data)

    def pause_writing(self) -> None:
        self._full = True
        if self._aiohttp is not None:
            self._aiohttp.pause_writing()

    def resume_writing(self) -> None:
        self._full = False
        if self._aiohttp is not None:
            self._aiohttp.resume_writing()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._take_held()

    def connection_lost(self, exc: Exception | None) -> None:
        self._held.clear()
        if self._job is not None:
            self._job.abandon()
        if self._streaming is not None:
            self._streaming.cancel()
        if self._head is not None:
            self._front.exchange.left(self, self._id, self._head.asked, perf_counter() - self._begun)
            self._end()
        self._front.clients.leave(self)
        self.transport = None
        if self._aiohttp is not None:
            self._aiohttp.connection_lost(exc)

    # A request, from its first byte to its last

    def _take(self, data: bytes) -> None:
        """The next piece, when no request waits for its answer here."""
        if self._head is not None:
            self._take_body(self._head, data)
        elif self._aiohttp is not None and not self._aiohttp.is_at_rest:
            self._aiohttp.data_received(data)
        elif self._full:
            self._hold(data)
        else:
            head = self._last_head
            if head is None or not data.startswith(head.raw):
                head = self._last_head = self._front.plain.head(data)
            guard = self._front.guard
            if head is None or len(data) > head.whole or not (guard.open or guard.admits(head.authorization)):
                self._pass_on(data)
                return
            self._head = head
            self._begun = perf_counter()
            self._id = new_request_id()
            self._front.exchange.begin(self)
            if len(data) == head.whole and len(data) < LEAST:
                self._ask(head, data[head.size :])
            else:
                self._expect_body(head, data)

    def _expect_body(self, head: Head, data: bytes) -> None:
        """``data``: the head, and what has come of the body already, perhaps all of it."""
        length, first = head.whole - head.size, memoryview(data)[head.size :]
        body = self._front.plane.memory_for(length)
        body[: len(first)] = first
        if len(first) == length:
            self._ask(head, body)
            return
        if length - len(first) >= _LARGE and self.transport is not None:
            self._incoming = IncomingBody(self, self.transport, body, len(first), self._large_body_has_come)
        else:
            self._body, self._filled = body, len(first)
        self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._look_at_body, len(first))

    def _look_at_body(self, before: int) -> None:
        """``before``: how much of it had come when it was last looked at."""
        now = self._incoming.filled if self._incoming is not None else self._filled
        if now - before >= _PROGRESS:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._look_at_body, now)
        else:
            self._give_up_waiting()

    def _large_body_has_come(self, body: Memory) -> None:
        assert self._head is not None
        self._incoming = None
        self._stop_timer()
        self._ask(self._head, body)

    def _take_body(self, head: Head, data: bytes) -> None:
        filled = self._filled + len(data)
        if filled > len(self._body):
            self._give_up_waiting()
            self._pass_on(data)
            return
        self._body[self._filled : filled] = data
        self._filled = filled
        if filled == len(self._body):
            self._stop_timer()
            body, self._body = self._body, _NOTHING
            self._ask(head, body)

    def _give_up_waiting(self) -> None:
        """Leaves a request whose body has not come whole to aiohttp."""
        assert self._head is not None
        body = self._body[: self._filled] if self._incoming is None else self._incoming.give_up()
        received = self._head.raw + body
        self._body = _NOTHING
        self._end()
        self._pass_on(received)

    def _hold(self, data: bytes) -> None:
        """Keeps what comes behind a request, each piece as it came: where they are cut can make a difference to
        aiohttp."""
        self._held.append(data)
        self._read_on()

    def _take_held(self) -> None:
        while self._held and not self._asked and not self._full:
            self._take(self._held.pop(0))
        self._read_on()

    def _read_on(self) -> None:
        """Or not, while too much is held."""
        stop = len(self._held) > _MOST_PIECES or sum(map(len, self._held)) > _MOST_HELD
        if stop is not self._stopped_reading and self.transport is not None and not self.transport.is_closing():
            self._stopped_reading = stop
            if stop:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def _pass_on(self, data: bytes) -> None:
        """This is aiohttp's, and so is what follows until it is at rest."""
        if self._aiohttp is None:
            assert self.transport is not None
            self._aiohttp = self._front.speak_aiohttp(self)
            self._aiohttp.connection_made(self.transport)
            if self._full:
                self._aiohttp.pause_writing()
        self._aiohttp.data_received(data)

    def _ask(self, head: Head, body: Buffer) -> None:
        self._asked = True
        request = head.request(self._id, body)
        try:
            self._job = self._front.plane.begin(request, self._answer)
        except Exception as error:
            self._answer(error)

    def _answer(self, outcome: InferenceResponse | Exception) -> None:
        head, exchange, transport = self._head, self._front.exchange, self.transport
        if head is None or transport is None or transport.is_closing():
            return  # connection_lost does the rest
        try:
            close = exchange.health.stopping  # then every answer is the last on its connection
            answer = exchange.answer_to(outcome, head.form, head.asked, self._id)
            if answer.stream is None:
                self._front.send_soon(self, exchange.heads.head(answer, self._id, close=close), answer, close)
            elif answer.status in raw_response.WITHOUT_A_BODY:
                answer.stream.close()
                self._front.send_soon(self, exchange.heads.head(answer, self._id, close=close), answer, close)
            else:
                self._streaming = asyncio.get_running_loop().create_task(self._stream(head, answer, close))
        except Exception:
            self.give_up()

    def give_up(self) -> None:
        """An error in our own code is the end of this connection, and harms no other."""
        log.exception("An answer to %s failed unexpectedly", self.peer)
        self.cut()

    def send(self, head: bytes, answer: InferenceResponse) -> None:
        """Writes an answer, unless the client has gone meanwhile."""
        if self.transport is not None and not self.transport.is_closing():
            body = b"" if answer.status in raw_response.WITHOUT_A_BODY else answer.body
            self.written += len(body)
            if len(body) <= _JOINED:
                self.transport.write(head + body)
            else:
                self.transport.writelines((head, body))

    def answered(self, status: int, *, close: bool) -> None:
        """What there is to be done when an answer has been written, and its client has not gone before that."""
        if self._head is None:
            return
        self._front.exchange.record(self, self._id, self._head.asked, status, perf_counter() - self._begun)
        self._end()
        if close:
            self._held.clear()
            self.close()
        elif self._held:
            self._take_held()

    async def _stream(self, head: Head, answer: InferenceResponse, close: bool) -> None:
        assert self.transport is not None
        exchange = self._front.exchange
        try:
            answer, pieces = exchange.streamed(answer, head.form, wants_events=head.wants_events)
            self.transport.write(exchange.heads.head(answer, self._id, close=close))
            await stream(self, in_chunks(self, self.transport, self._drain), answer, pieces, self._id)
            self.answered(answer.status, close=close or self.transport.is_closing())
        except Exception:
            self.give_up()

    async def _drain(self) -> None:
        if self._full:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def _end(self) -> None:
        """The request is not ours any more."""
        self._incoming = None
        if self._timer is not None:
            self._stop_timer()
        self._front.exchange.end(self)
        self._head = self._job = self._streaming = None
        self._asked = False

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

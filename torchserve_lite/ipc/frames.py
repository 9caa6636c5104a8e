"""Frames: a length and that many bytes, over a stream socket. One decoder, for the asyncio end and the blocking end."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

_LENGTH = struct.Struct("!I")
_RECEIVE = 256 * 1024
FRAME_LIMIT = 1 << 30  # a longer one is garbage from a broken peer, not a message


class FrameError(Exception):
    """The peer does not speak our protocol."""


def pack(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload


class FrameDecoder:
    """Turns received bytes into whole payloads; keeps what is incomplete."""

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        payloads = []
        start = 0
        while (body := self._body_at(start)) is not None:
            payloads.append(bytes(memoryview(self._buffer)[body[0] : body[1]]))
            start = body[1]
        if start:
            del self._buffer[:start]
        return payloads

    def _body_at(self, start: int) -> tuple[int, int] | None:
        begin = start + _LENGTH.size
        if len(self._buffer) < begin:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, start)
        if length > self._limit:
            raise FrameError(f"a frame of {length} bytes was announced; the limit is {self._limit}")
        return (begin, begin + length) if len(self._buffer) >= begin + length else None


class BlockingFrames:
    """The child's end: blocking, one thread."""

    def __init__(self, link: socket.socket) -> None:
        self._socket = link
        self._decoder = FrameDecoder()
        self._ready: deque[bytes] = deque()

    def send(self, payload: bytes) -> None:
        self._socket.sendall(pack(payload))

    def receive(self) -> bytes | None:
        """The next payload, or None when the parent has gone."""
        while not self._ready:
            data = self._socket.recv(_RECEIVE)
            if not data:
                return None
            self._ready.extend(self._decoder.feed(data))
        return self._ready.popleft()

    def receive_now(self) -> bytes | None:
        """A payload that has already arrived, or None; never waits."""
        if not self._ready:
            try:
                data = self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            self._ready.extend(self._decoder.feed(data))
        return self._ready.popleft() if self._ready else None


class AsyncFrames(asyncio.Protocol):
    """The parent's end: calls ``on_payload`` for each frame, and ``on_closed`` once: with the fault if the peer sent
    something that is no frame, else with an empty text."""

    def __init__(self, on_payload: Callable[[bytes], None], on_closed: Callable[[str], None]) -> None:
        self._on_payload = on_payload
        self._on_closed = on_closed
        self._decoder = FrameDecoder()
        self._fault = ""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._decoder.feed(data):
                self._on_payload(payload)
        except FrameError as fault:
            self._fault = str(fault)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_closed(self._fault)

    def send(self, payload: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(pack(payload))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

"""The pieces of an answer that a handler streams, between the engine that has them and the protocol that sends them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from torchserve_lite.errors import ServingError

Buffer = bytes | bytearray | memoryview
"""Bytes that nobody changes any more, wherever they lie."""

_MOST_BYTES = 256 * 1024  # that wait for a slow reader, besides the piece that goes over it
_MOST_PIECES = 64
_FAR_TOO_MANY_BYTES = 16 * 1024 * 1024  # a writer that cannot wait may not be ahead of its reader by more,
_FAR_TOO_MANY_PIECES = 16 * 1024  # nor by more pieces


def _heard() -> None:
    """Nobody has to be told any more."""


class AnswerStream:
    """One reader iterates over the pieces inside ``async with``.

    Bounded: the writer looks whether it is ``full``, and is told when it may go on. A reader that leaves before the
    end, or that calls ``close`` without ever having begun, is reported through ``on_abandoned``, once.
    """

    def __init__(self, on_abandoned: Callable[[], None]) -> None:
        self._on_abandoned = on_abandoned
        self._pieces: deque[Buffer] = deque()
        self._bytes = 0
        self._ended = False
        self._error: ServingError | None = None
        self._news = asyncio.Event()  # something to read, or the end
        self._full = False
        self._when_read: Callable[[], None] | None = None

    @property
    def ended(self) -> bool:
        """No more pieces will be put, because the answer is complete, has failed, or nobody reads it."""
        return self._ended

    @property
    def full(self) -> bool:
        """The reader is behind: a writer that keeps the bound waits until it is told otherwise."""
        return self._full

    @property
    def overflowing(self) -> bool:
        """So much waits that nobody should keep it, besides a last piece of any size."""
        return len(self._pieces) > _FAR_TOO_MANY_PIECES or (self._bytes > _FAR_TOO_MANY_BYTES and len(self._pieces) > 1)

    def when_read(self, tell: Callable[[], None]) -> None:
        """Has ``tell`` called once when the reader of a full stream has caught up, or has gone."""
        self._when_read = tell

    def put(self, piece: Buffer) -> None:
        """Also when it is full."""
        if self._ended or not len(piece):
            return
        self._pieces.append(piece)
        self._bytes += len(piece)
        self._news.set()
        if self._bytes > _MOST_BYTES or len(self._pieces) > _MOST_PIECES:
            self._full = True

    def end(self, error: ServingError | None = None) -> None:
        """After the last piece. ``error``: what broke the answer off, raised for the reader once it has the rest."""
        if not self._ended:
            self._ended, self._error = True, error
            self._on_abandoned = _heard  # and whom it belongs to is free at once
            self._news.set()
            self._make_room()

    async def __aenter__(self) -> AnswerStream:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is read any more."""
        tell = self._on_abandoned
        self._pieces.clear()
        self.end()
        tell()

    def __aiter__(self) -> AnswerStream:
        return self

    async def __anext__(self) -> Buffer:
        while not self._pieces:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        piece = self._pieces.popleft()
        self._bytes -= len(piece)
        if self._bytes <= _MOST_BYTES // 2 and len(self._pieces) <= _MOST_PIECES // 2:
            self._make_room()
        return piece

    def _make_room(self) -> None:
        self._full = False
        tell, self._when_read = self._when_read, None
        if tell is not None:
            tell()

"""Frames: a header and buffers, over a stream socket. One decoder, for the asyncio end and the blocking end.

On the wire: how many pieces follow, the length of each (32 bits, network order), then the pieces. The first piece is
the header, the others are buffers. A large buffer is received straight into the memory that its reader gets, and sent
from the memory that its writer has: it is neither joined with its neighbours nor split off again.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import cast

from torchserve_lite.core.memory import KEPT_SECONDS, LARGE, give_back, unfilled
from torchserve_lite.core.streams import Buffer

_COUNT = struct.Struct("!I")
_LENGTH_BYTES = 4
_RECEIVE = 256 * 1024
_JOINED = 32 * 1024  # pieces up to this size are sent together: copying them is cheaper than a system call for each
_MOST_PIECES = 16_384  # their lengths must fit the decoder's receive buffer
_BELIEVED = 16 * 1024 * 1024  # bytes of a piece that are made room for because they were announced; more as they come
FRAME_LIMIT = 1 << 30  # a longer one is garbage from a broken peer, not a message

Frame = Sequence[bytearray]
"""The header and the buffers of one frame, each its reader's own."""


class FrameError(Exception):
    """The peer does not speak our protocol."""


def problem_of(pieces: Sequence[Buffer]) -> str:
    """Why these pieces are no frame that the other end takes; empty when they are."""
    size = sum(map(len, pieces))
    if size > FRAME_LIMIT:
        return f"{size:,} bytes, of which a worker takes {FRAME_LIMIT:,} at once"
    if len(pieces) > _MOST_PIECES:
        return f"{len(pieces):,} large parts, of which a worker takes {_MOST_PIECES:,} at once"
    return ""


def frame_of(pieces: Sequence[Buffer]) -> list[Buffer]:
    """What to write for a frame of these pieces: small ones joined, large ones as they are."""
    head = struct.pack(f"!I{len(pieces)}I", len(pieces), *map(len, pieces))
    writes: list[Buffer] = []
    small: list[Buffer] = [head]
    for piece in pieces:
        if len(piece) <= _JOINED:
            small.append(piece)
        else:
            writes += [b"".join(small), piece]
            small = []
    if small:
        writes.append(b"".join(small))
    return writes


def _is_large(pieces: Sequence[Buffer]) -> bool:
    return len(pieces) > 1 and max(map(len, pieces)) >= LARGE


class FrameDecoder:
    """Says where the next bytes belong (``room``), and gives the frames that they complete (``received``)."""

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self._limit = limit
        self._buffer = bytearray(_RECEIVE)  # whatever arrives, but for the rest of a piece that has begun
        self._start = self._end = 0  # of what is unread in it
        self._lengths: list[int] = []  # of this frame's pieces that have not begun
        self._pieces: list[bytearray] = []  # of this frame, the last one perhaps incomplete
        self._missing = 0  # bytes of the last piece
        self._free = 0  # bytes at its end that there is already room for

    def room(self) -> memoryview:
        """Memory to receive into, never empty."""
        if self._missing:
            if not self._free:
                piece = self._pieces[-1]
                self._free = min(len(piece), self._missing)
                longer = unfilled(len(piece) + self._free)  # a new one: somebody may still look at the old one
                longer[: len(piece)] = piece
                self._pieces[-1] = longer
            piece = self._pieces[-1]
            return memoryview(piece)[len(piece) - self._free :]
        if self._end == len(self._buffer):
            unread = self._buffer[self._start : self._end]
            self._buffer[: len(unread)] = unread
            self._start, self._end = 0, len(unread)
        return memoryview(self._buffer)[self._end :]

    def received(self, count: int) -> list[Frame]:
        """``count`` bytes have been put into ``room``. FrameError when they are no frame of ours."""
        if self._missing:
            self._missing -= count
            self._free -= count
        else:
            self._end += count
        frames: list[Frame] = []
        while not self._missing:
            if self._lengths:
                self._begin_piece(self._lengths.pop(0))
            elif self._pieces:
                frames.append(self._pieces)
                self._pieces = []
            elif not self._begin_frame():
                break
        if self._start == self._end:
            self._start = self._end = 0
        return frames

    def _begin_frame(self) -> bool:
        """Reads the lengths of the next frame's pieces, when they have all arrived."""
        unread = self._end - self._start
        if unread < _COUNT.size:
            return False
        (pieces,) = _COUNT.unpack_from(self._buffer, self._start)
        if not 1 <= pieces <= _MOST_PIECES:
            raise FrameError(f"a frame of {pieces} pieces was announced; 1 to {_MOST_PIECES} are allowed")
        if unread < _COUNT.size + pieces * _LENGTH_BYTES:
            return False
        self._lengths = list(struct.unpack_from(f"!{pieces}I", self._buffer, self._start + _COUNT.size))
        if sum(self._lengths) > self._limit:
            raise FrameError(f"a frame of {sum(self._lengths)} bytes was announced; the limit is {self._limit}")
        self._start += _COUNT.size + pieces * _LENGTH_BYTES
        return True

    def _begin_piece(self, length: int) -> None:
        """Takes what has arrived of it; the rest will be received in its place."""
        here = memoryview(self._buffer)[self._start : min(self._end, self._start + length)]
        self._start += len(here)
        self._missing = length - len(here)
        if not self._missing:
            self._pieces.append(bytearray(here))
            return
        self._free = min(self._missing, _BELIEVED)
        piece = unfilled(len(here) + self._free)
        piece[: len(here)] = here
        self._pieces.append(piece)


class BlockingFrames:
    """The child's end, blocking. One thread receives; any may send, each frame whole."""

    def __init__(self, link: socket.socket) -> None:
        self._socket = link
        self._decoder = FrameDecoder()
        self._ready: deque[Frame] = deque()
        self._sending = threading.Lock()
        self._held: list[Buffer] | None = None  # what is to leave together
        self._arrival = select.poll()
        self._arrival.register(link, select.POLLIN)
        self._memory_is_kept = False

    def send(self, pieces: Sequence[Buffer]) -> None:
        self._memory_is_kept |= _is_large(pieces)
        with self._sending:
            if self._held is not None:
                self._held += [bytes(data) for data in frame_of(pieces)]  # a handler may fill its buffer anew
                return
            for data in frame_of(pieces):
                self._socket.sendall(data)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Frames that are sent meanwhile leave at the end, in one system call if they are small: the parent is woken
        once for all of them."""
        with self._sending:
            self._held = []
        try:
            yield
        finally:
            with self._sending:
                held, self._held = self._held, None
                if len(held) > 1 and sum(map(len, held)) <= _RECEIVE:
                    held = [b"".join(held)]
                for data in held:
                    self._socket.sendall(data)

    def keep_memory(self, length: int) -> None:
        """A payload of this length has come by another way: what was said of large frames holds."""
        self._memory_is_kept |= length >= LARGE

    def receive(self) -> Frame | None:
        """The next frame, or None when the parent has gone. Memory that large frames have left goes back to the system
        when none comes for a while."""
        if self._memory_is_kept and not self._ready and not self._arrival.poll(KEPT_SECONDS * 1000):
            self._memory_is_kept = False
            give_back()
        while not self._ready:
            count = self._socket.recv_into(self._decoder.room())
            if not count:
                return None
            self._ready.extend(self._decoder.received(count))
        self._memory_is_kept |= _is_large(self._ready[0])
        return self._ready.popleft()

    def receive_now(self) -> Frame | None:
        """A frame that has already arrived, or None; never waits."""
        if not self._ready:
            try:
                count = self._socket.recv_into(self._decoder.room(), 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            self._ready.extend(self._decoder.received(count))
        if not self._ready:
            return None
        self._memory_is_kept |= _is_large(self._ready[0])
        return self._ready.popleft()


class AsyncFrames(asyncio.BufferedProtocol):
    """The parent's end: calls ``on_frame`` for each frame, and ``on_closed`` once: with the error if the peer sent
    something that is no frame, else with an empty text. Memory that large frames have left goes back to the system when
    none comes for a while."""

    def __init__(self, on_frame: Callable[[Frame], None], on_closed: Callable[[str], None]) -> None:
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._decoder = FrameDecoder()
        self._error = ""
        self._transport: asyncio.Transport | None = None
        self._give_back_at = 0.0
        self._giving_back: asyncio.TimerHandle | None = None  # from a large frame on until none comes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.room()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for frame in self._decoder.received(nbytes):
                if _is_large(frame):
                    self._keep_memory()
                self._on_frame(frame)
        except FrameError as error:
            self._error = str(error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._giving_back is not None:
            self._giving_back.cancel()
            give_back()
        self._on_closed(self._error)

    def send(self, pieces: Sequence[Buffer]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            if _is_large(pieces):
                self._keep_memory()
            self._transport.writelines(frame_of(pieces))

    def pause(self) -> None:
        """Takes no more in until ``resume``: the peer's writes then wait."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _keep_memory(self) -> None:
        """For the next large frame: the timer that gives it back begins anew."""
        loop = asyncio.get_running_loop()
        self._give_back_at = loop.time() + KEPT_SECONDS
        if self._giving_back is None:
            self._giving_back = loop.call_at(self._give_back_at, self._give_back)

    def _give_back(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._give_back_at:
            self._giving_back = loop.call_at(self._give_back_at, self._give_back)
        else:
            self._giving_back = None
            give_back()

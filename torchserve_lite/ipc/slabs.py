"""Slabs: memory that the server and all workers see, for large payloads.

A request body is received into a slab, and its worker is told where it lies; the worker writes the answer over it, if
it fits there. Over the link a payload is copied into the kernel and out of it again: 57 us of CPU time for 100 KB,
where a copy out of a slab takes 6.

All slabs lie in one file without a name (memfd), which is sealed: nobody can make it shorter under the server's feet.
Workers read and write it with system calls and map none of it, so that a stray pointer of a handler's library finds
nothing there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import mmap
import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, cast

from torchserve_lite.core.memory import KEPT_SECONDS, unfilled
from torchserve_lite.core.streams import Buffer

LEAST = 32 * 1024
"""Bytes of a payload from which on a slab costs less than the link."""

_MOST = 256 * 1024 * 1024  # bytes of all slabs; when they are taken, payloads go over the link
_FINE, _COARSE = 64 * 1024, 1024 * 1024  # bytes: slabs are multiples of one or the other, so that they fit again


class Slabs:
    """The server's end. A slab belongs to whoever has a view of it, and is free when the last view is gone: however its
    request ends, nobody has to give it back."""

    def __init__(self, size: int = _MOST) -> None:
        """``size`` 0, or a system that has none to give: there are no slabs."""
        self.fd, size = _sealed_file(size)
        self._memory: mmap.mmap | None = None
        if size:
            with contextlib.suppress(OSError):  # a limit on address space
                self._memory = mmap.mmap(self.fd, size)
        self._start = 0 if self._memory is None else ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._unused = [(0, 0 if self._memory is None else size)]  # begin and end of what no slab has, in order
        self._free: defaultdict[int, list[int]] = defaultdict(list)  # slabs by size, where each begins
        self.in_use = 0  # how many there are
        self._kinds: dict[int, Any] = {}
        self._last_used = 0.0
        self._giving_back: asyncio.TimerHandle | None = None

    def new(self, length: int) -> memoryview | None:
        """A slab for ``length`` bytes; None when it is not worth one, or when there is no room."""
        if length < LEAST or self._memory is None:
            return None
        step = _FINE if length <= _COARSE else _COARSE
        size = -(-length // step) * step
        free = self._free[size]
        begin = free.pop() if free else self._cut(size)
        if begin is None:
            return None
        self.in_use += 1
        self._keep_memory()
        slab = self._kind(size).from_buffer(self._memory, begin)
        slab.slabs, slab.begin, slab.size = self, begin, size
        return memoryview(slab).cast("B")[:length]

    def place_of(self, data: Buffer) -> tuple[int, int] | None:
        """Where it lies in the file, and how many bytes there are its own; None when it is in no slab of these."""
        slab: Any = data.obj if type(data) is memoryview else None
        if slab is None or getattr(slab, "slabs", None) is not self or not len(data):
            return None
        begin = ctypes.addressof(ctypes.c_char.from_buffer(data)) - self._start
        return begin, slab.begin + slab.size - begin

    def over(self, data: Buffer, length: int) -> memoryview | None:
        """The ``length`` bytes that begin where ``data`` does; None when that is in no slab, or it has no such room."""
        place = self.place_of(data)
        if place is None or not 0 <= length <= place[1]:
            return None
        slab: Any = cast(memoryview, data).obj
        begin = place[0] - slab.begin
        return memoryview(slab).cast("B")[begin : begin + length]

    def close(self) -> None:
        """What is still being sent keeps its memory until it has been."""
        if self._giving_back is not None:
            self._giving_back.cancel()
        if self._memory is not None and not self.in_use:
            with contextlib.suppress(BufferError):
                self._memory.close()
        self._memory = None
        os.close(self.fd)

    def _kind(self, size: int) -> Any:
        """The class of slabs of this size: ctypes has a class for each."""
        kind = self._kinds.get(size)
        if kind is None:
            facts = {"_type_": ctypes.c_char, "_length_": size, "__del__": _leave}
            kind = self._kinds[size] = type("Slab", (ctypes.Array,), facts)
        return kind

    def _cut(self, size: int) -> int | None:
        begin = self._first_fit(size)
        if begin is None:
            self._gather()
            begin = self._first_fit(size)
        return begin

    def _first_fit(self, size: int) -> int | None:
        for index, (begin, end) in enumerate(self._unused):
            if end - begin >= size:
                self._unused[index] = (begin + size, end)
                return begin
        return None

    def _gather(self) -> None:
        """What free slabs have is to be cut anew."""
        spans = [span for span in self._unused if span[0] < span[1]]
        for size, begins in self._free.items():
            while begins:
                begin = begins.pop()
                spans.append((begin, begin + size))
        self._unused = []
        for begin, end in sorted(spans):
            if self._unused and self._unused[-1][1] == begin:
                begin = self._unused.pop()[0]
            self._unused.append((begin, end))

    def _keep_memory(self) -> None:
        """For the next slab: the timer that gives it back begins anew."""
        loop = asyncio.get_running_loop()
        self._last_used = loop.time()
        if self._giving_back is None:
            self._giving_back = loop.call_later(KEPT_SECONDS, self._give_back)

    def _give_back(self) -> None:
        loop = asyncio.get_running_loop()
        due = self._last_used + KEPT_SECONDS
        self._giving_back = None
        if loop.time() < due:
            self._giving_back = loop.call_at(due, self._give_back)
            return
        self._gather()
        assert self._memory is not None
        for begin, end in self._unused:
            if begin < end:
                self._memory.madvise(mmap.MADV_REMOVE, begin, end - begin)
        if self.in_use:
            self._giving_back = loop.call_later(KEPT_SECONDS, self._give_back)


def _leave(slab: Any) -> None:
    """Its last view is gone. May be called in any thread."""
    slab.slabs._free[slab.size].append(slab.begin)
    slab.slabs.in_use -= 1


def _sealed_file(size: int) -> tuple[int, int]:
    """A descriptor, and how many bytes it has: none where the system knows no sealed files."""
    if not hasattr(os, "memfd_create"):  # macOS
        return os.open(os.devnull, os.O_RDWR), 0
    fd = os.memfd_create("slabs", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:  # a limit on the size of files
        return fd, 0
    return fd, size


class SlabFile:
    """A worker's end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, begin: int, length: int) -> bytearray:
        """A copy, which is its reader's own. EOFError when nothing like that lies there."""
        data = unfilled(length)
        rest = memoryview(data)
        while rest:
            count = os.preadv(self._fd, [rest], begin + length - len(rest))
            if not count:
                raise EOFError(f"{length} bytes at {begin} were announced and are not there")
            rest = rest[count:]
        return data

    def write(self, begin: int, data: Buffer) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._fd, rest, begin)
            begin, rest = begin + written, rest[written:]

    def close(self) -> None:
        os.close(self._fd)


@contextlib.contextmanager
def slabs(size: int = _MOST) -> Iterator[Slabs]:
    """``size`` 0: none."""
    made = Slabs(size)
    try:
        yield made
    finally:
        made.close()

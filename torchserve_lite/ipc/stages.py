"""The stage marker: a page of memory in which a worker notes what it is doing, and which outlives it.

When a worker dies, the parent reads here which batch, which row and which stage it was in. A page shared by both costs
a memory write per stage; a message would cost a system call and, after SIGKILL, might never be sent.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from dataclasses import dataclass

STAGES = (
    "idle",
    "loading",
    "unpacking",
    "handle",
    "preprocess",
    "inference",
    "postprocess",
    "explain",
    "describe",
    "packing",
    "starting",
)
_LAYOUT = struct.Struct("=qiId")  # batch, row, stage, monotonic seconds
_SIZE = mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Stage:
    """``row`` is the index in the handler's batch, -1 when the whole batch is meant."""

    name: str
    batch: int
    row: int
    since: float


class StageMarker:
    """One per worker. Both ends map the same file descriptor; ``close`` unmaps it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._memory = mmap.mmap(fd, _SIZE)
        self._batch = 0

    @classmethod
    def create(cls) -> StageMarker:
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("stage")
        else:  # macOS
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, _SIZE)
        marker = cls(fd)
        marker.mark("starting")
        return marker

    def begin(self, batch: int) -> None:
        self._batch = batch

    def mark(self, stage: str, row: int = -1) -> None:
        _LAYOUT.pack_into(self._memory, 0, self._batch, row, _INDEX.get(stage, 0), time.monotonic())

    def read(self) -> Stage:
        batch, row, stage, since = _LAYOUT.unpack_from(self._memory, 0)
        return Stage(STAGES[stage] if stage < len(STAGES) else STAGES[0], batch, row, since)

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)


_INDEX = {name: index for index, name in enumerate(STAGES)}

"""A worker's stdout and stderr, line by line, until their very end: a traceback is never lost."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable

_LINE_LIMIT = 64 * 1024  # a longer line is cut in pieces, so that a handler printing without newlines costs no memory
_KEPT = 20

MODEL_LOG = logging.getLogger("MODEL_LOG")
LineReader = Callable[[str], bool]
"""Takes a line; True when the line was for it (a printed metric) and should not be logged."""


class LogPipe(asyncio.Protocol):
    """Reads one pipe of a worker and logs each line at ``level``. ``write_end`` is for the child."""

    def __init__(self, source: str, level: int, metric_line_parser: LineReader) -> None:
        self._source = source
        self._level = level
        self._metric_line_parser = metric_line_parser
        self._rest = b""
        self._tail: deque[str] = deque(maxlen=_KEPT)
        self._ended = asyncio.get_running_loop().create_future()
        self._transport: asyncio.BaseTransport | None = None
        read_end, self.write_end = os.pipe()
        self._reader = os.fdopen(read_end, "rb", 0)

    async def open(self) -> None:
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: self, self._reader)

    def close_write_end(self) -> None:
        """Closes our copy of the write end, so that the pipe ends when the child does."""
        os.close(self.write_end)
        self.write_end = -1

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._log(line)
        if len(self._rest) > _LINE_LIMIT:
            self._log(self._rest)
            self._rest = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._log(self._rest)
        if not self._ended.done():
            self._ended.set_result(None)

    async def drained(self, timeout: float) -> None:
        """Waits for the end of the pipe; a grandchild that holds it open is not waited for longer than ``timeout``."""
        await asyncio.wait([self._ended], timeout=timeout)

    def last_lines(self) -> list[str]:
        return list(self._tail)

    def close(self) -> None:
        if self.write_end >= 0:
            self.close_write_end()
        if self._transport is not None:
            self._transport.close()
        else:
            self._reader.close()

    def _log(self, raw: bytes) -> None:
        line = raw.decode("utf-8", "replace").rstrip("\r")
        self._tail.append(line)
        if not self._metric_line_parser(line):
            MODEL_LOG.log(self._level, "%s", printable(line), extra={"source": self._source})


def printable(line: str) -> str:
    """Control characters made visible: a handler's output must not forge log lines or drive a terminal."""
    return line if line.isprintable() else "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in line)

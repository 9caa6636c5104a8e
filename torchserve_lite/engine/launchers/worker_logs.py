"""A worker's stdout and stderr, line by line, until their very end: a traceback is never lost.

What a handler prints without measure is left out rather than waited for. Reading on keeps the handler running, which a
full pipe would stop in the middle of a request; and what is left out costs the event loop next to nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from torchserve_lite.ipc.log_lines import RequestIds, last_request_mark, printable, unmarked

_LINE_LIMIT = 64 * 1024  # a longer line is cut in pieces, so that a handler printing without newlines costs no memory
_LINES_PER_TURN = 100  # of the event loop, about a millisecond; the pipe is not read before they are taken
_LINES_PER_SECOND = 2000
_BYTES_PER_SECOND = 2 * 1024 * 1024
_HALF_LINE_WAITS = 1.0  # seconds for its other half
_KEPT = 20
_READ_BYTES = 64 * 1024  # what a pipe holds

_CRASH = "Fatal Python error: "  # how Python's faulthandler begins
# What it goes on with that is no help to a handler's author: our own frames below theirs, and a list of modules.
_NOT_THEIRS = (f'  File "{Path(__file__).parents[2]}/', '  File "<string>"', "Extension modules: ")

MODEL_LOG = logging.getLogger("MODEL_LOG")
LineReader = Callable[[str], bool]
"""Takes a line; True when the line was for it (a printed metric) and should not be logged."""


class LogPipe:
    """Reads one pipe of a worker and logs each line at the level it is marked with, else at ``level``.

    ``write_end`` is for the child. No transport of the event loop reads the pipe: uvloop's close it twice, and one that
    is cancelled while it is made closes it or does not, as the loop likes. A descriptor that is closed twice may be
    somebody else's by then.
    """

    def __init__(self, source: str, level: int, metric_line_parser: LineReader) -> None:
        self._source = source
        self._level = level
        self._metric_line_parser = metric_line_parser
        self._loop = asyncio.get_running_loop()
        self._unread = b""
        self._turn: asyncio.Handle | None = None  # the next one, while there are whole lines to take
        self._half_line_timer: asyncio.TimerHandle | None = None
        self._half_line_shown = False
        self._level_of_cut_line: int | None = None
        self._requests = RequestIds()  # whose the output is just now, as far as the worker has said
        self._second: asyncio.TimerHandle | None = None  # runs while something was taken in the present second
        self._lines_left = _LINES_PER_SECOND
        self._bytes_left = _BYTES_PER_SECOND
        self._left_out = 0
        self._lost = False
        self._crashed = False
        self._tail: deque[str] = deque(maxlen=_KEPT)
        self._ended = self._loop.create_future()
        self._reading = False
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)

    def open(self) -> None:
        self._read(on=True)

    def close_write_end(self) -> None:
        """Closes our copy of the write end, so that the pipe ends when the child does."""
        os.close(self.write_end)
        self.write_end = -1

    def _readable(self) -> None:
        try:
            data = os.read(self._read_end, _READ_BYTES)
        except BlockingIOError:
            return
        self._unread += data
        if not data:
            self._close_read_end()
        if self._turn is None:
            self._take_turn()

    def _close_read_end(self) -> None:
        self._read(on=False)
        os.close(self._read_end)
        self._read_end = -1
        self._lost = True

    def _take_turn(self) -> None:
        """Takes a bounded number of lines; reading goes on when no whole line is left."""
        self._turn = None
        if self._second is None:
            self._second = self._loop.call_later(1, self._begin_second)
        most = max(0, min(_LINES_PER_TURN, self._lines_left)) if self._bytes_left > 0 else 0
        *lines, self._unread = self._unread.split(b"\n", most)
        for line in lines:
            self._log(line)
        if self._lines_left <= 0 or self._bytes_left <= 0:
            self._leave_out_lines()
        if self._half_line_timer is not None and lines:
            self._half_line_timer.cancel()
            self._half_line_timer = None
        if b"\n" in self._unread:
            self._read(on=False)
            self._turn = self._loop.call_soon(self._take_turn)
        elif self._lost:
            self._end()
        else:
            self._wait_for_the_other_half()
            self._read(on=True)

    def _read(self, *, on: bool) -> None:
        if on and not self._reading:
            self._loop.add_reader(self._read_end, self._readable)
        elif self._reading and not on:
            self._loop.remove_reader(self._read_end)
        self._reading = on

    def _wait_for_the_other_half(self) -> None:
        if len(self._unread) > _LINE_LIMIT:
            self._log(self._unread, ended=False, cut=True)
            self._unread = b""
        if self._unread.startswith(b"\x1eR") and not any(True for _ in unmarked(self._unread, ended=False)):
            self._requests = last_request_mark(self._unread) or self._requests  # and half a line there is not
            self._unread = b""
        if self._unread and self._half_line_timer is None:
            self._half_line_timer = self._loop.call_later(_HALF_LINE_WAITS, self._show_half_line)

    def _show_half_line(self) -> None:
        self._half_line_timer = None
        if self._unread:
            self._log(self._unread, ended=False)
            self._unread = b""
            self._half_line_shown = True

    def _leave_out_lines(self) -> None:
        lines, newline, self._unread = self._unread.rpartition(b"\n")
        if newline:
            self._left_out += lines.count(b"\n") + 1
            self._requests = last_request_mark(lines) or self._requests
            kept = lines.rsplit(b"\n", _KEPT)[-_KEPT:]
            self._tail.extend(_text(part.text) for line in kept for part in unmarked(line))
        if len(self._unread) > _LINE_LIMIT:
            self._left_out += 1
            self._unread = b""

    def _begin_second(self) -> None:
        self._second = None
        self._lines_left, self._bytes_left = _LINES_PER_SECOND, _BYTES_PER_SECOND
        self._say_what_was_left_out()

    def _say_what_was_left_out(self) -> None:
        if self._left_out:
            MODEL_LOG.warning(
                "%s lines were left out here: a worker may write %s lines or %s MiB a second.",
                f"{self._left_out:,}",
                f"{_LINES_PER_SECOND:,}",
                _BYTES_PER_SECOND >> 20,
                extra={"source": self._source},
            )
            self._left_out = 0

    def _end(self) -> None:
        for timer in (self._second, self._half_line_timer):
            if timer is not None:
                timer.cancel()
        self._say_what_was_left_out()
        if self._unread:
            self._log(self._unread, ended=False)
            self._unread = b""
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
        if self._read_end >= 0:
            self._close_read_end()
            if self._turn is None:
                self._take_turn()

    def _log(self, line: bytes, *, ended: bool = True, cut: bool = False) -> None:
        """``cut``: its end has not come yet, and will be logged at the level of its beginning."""
        goes_on, self._half_line_shown = self._half_line_shown, cut
        if goes_on and not line.rstrip(b"\r"):  # the rest of it was a line's end only
            self._level_of_cut_line = None
            return
        self._lines_left -= 1
        self._bytes_left -= len(line)
        level = self._level_of_cut_line
        for part in unmarked(line, ended=ended):
            level = part.level or level
            self._requests = self._requests if part.requests is None else part.requests
            text = _text(part.text)
            self._crashed = self._crashed or text.startswith(_CRASH)
            if self._crashed and text.startswith(_NOT_THEIRS):
                continue
            self._tail.append(text)
            if not self._metric_line_parser(text):
                about = {"source": self._source, "request_ids": self._requests}
                MODEL_LOG.log(level or self._level, "%s", printable(text), extra=about)
        self._requests = last_request_mark(line) or self._requests
        self._level_of_cut_line = level if cut else None


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip("\r")

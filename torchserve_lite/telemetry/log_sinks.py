"""Where log lines end up (stdout, stderr, files): each place has a bounded queue and a thread of its own.

Whoever logs never waits. A log collector that stops reading, a terminal stopped by Ctrl-S or a full disk costs the
lines that do not fit into that place's queue; the other places get theirs, and the server serves on.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Protocol, TextIO

_QUEUE_LIMIT = 4 * 1024 * 1024  # characters: some 30,000 lines
_PIECE = 64 * 1024  # written at once
_RETRY_AFTER = 5.0  # seconds after a write that failed; a disk may have room again
_CLOSING_TIME = 2.0  # seconds that a stop waits for lines nobody takes
_SAY_AGAIN_AFTER = 60.0  # seconds

log = logging.getLogger(__name__)


class Target(Protocol):
    """Takes bytes, for as long as it likes. ``PartlyWritten`` when it took some and then failed."""

    name: str
    encoding: str

    def write(self, data: bytes) -> None: ...

    def reopen(self) -> None:
        """Somebody may have moved the file away: goes on in one of the same name."""

    def close(self) -> None: ...


class PartlyWritten(OSError):
    """A write that failed in its middle."""

    def __init__(self, cause: OSError, written: int) -> None:
        super().__init__(cause.errno, cause.strerror)
        self.written = written


class StreamTarget:
    """An open standard stream, by its descriptor: Python's own buffer would be flushed, and block, at the exit."""

    def __init__(self, stream: TextIO) -> None:
        self.name = stream.name if isinstance(stream.name, str) else "output"
        self.encoding = stream.encoding or "utf-8"
        self._descriptor = stream.fileno()
        self._file = _file_appended_to(self._descriptor)

    def write(self, data: bytes) -> None:
        write_all(self._descriptor, data)

    def reopen(self) -> None:
        """Of a file that the output is appended to (``>> server.log``, ``start --background``); standard error goes the
        same way if it went to the same file."""
        if self._file is None:
            return
        former = os.fstat(self._descriptor)
        fresh = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode=stat.S_IMODE(former.st_mode))
        try:
            for descriptor in {self._descriptor, 2}:
                if os.path.samestat(os.fstat(descriptor), former):
                    os.dup2(fresh, descriptor)
        finally:
            os.close(fresh)

    def close(self) -> None:
        """The stream belongs to the process."""


class FileTarget:
    """A log file that begins anew at a size, keeping its predecessors as NAME.1, NAME.2, ..."""

    encoding = "utf-8"

    def __init__(self, file: Path, size: int, kept: int) -> None:
        self.name = str(file)
        self._size = size
        self._file = RotatingFileHandler(file, maxBytes=size, backupCount=kept, encoding="utf-8")

    def write(self, data: bytes) -> None:
        if os.fstat(self._open_descriptor()).st_size + len(data) > self._size:
            self._file.doRollover()
        write_all(self._open_descriptor(), data)

    def _open_descriptor(self) -> int:
        if self._file.stream is None:  # a rollover failed between its steps
            self._file.stream = self._file._open()
        return self._file.stream.fileno()

    def reopen(self) -> None:
        if self._file.stream is not None:
            self._file.stream.close()
            self._file.stream = None  # as the library itself leaves it
        self._open_descriptor()  # now, so that the file is there for whoever has moved its predecessor

    def close(self) -> None:
        self._file.close()


class Sink:
    """A text stream that never blocks: what does not fit is left out, counted, and said when writing goes on.

    Use ``running``. It is enough of a ``TextIO`` for ``print`` and for rich.
    """

    def __init__(self, target: Target, *, limit: int = _QUEUE_LIMIT, is_terminal: bool = False) -> None:
        self._target = target
        self._limit = limit
        self._is_terminal = is_terminal
        self.encoding = target.encoding
        self._changed = threading.Condition()  # on a re-entrant lock: a finalizer may log while we hold it
        self._queue: deque[str] = deque()
        self._queued = 0
        self._left_out = 0
        self._closing = threading.Event()
        self._to_be_reopened = False
        self._thread = threading.Thread(target=self._write_queue, name=f"log {target.name}", daemon=True)
        self._failure_said = -_SAY_AGAIN_AFTER

    def write(self, text: str) -> int:
        with self._changed:
            if self._left_out or self._queued + len(text) > self._limit:
                self._left_out += text.count("\n") or 1
            else:
                self._queue.append(text)
                self._queued += len(text)
            self._changed.notify()
        return len(text)

    def flush(self) -> None:
        """Lines are on their way; nobody waits for them."""

    def isatty(self) -> bool:
        return self._is_terminal

    def start(self) -> None:
        self._thread.start()

    def reopen(self) -> None:
        """Returns at once. What is written from then on goes to a file of that name, wherever the old one is now."""
        with self._changed:
            self._to_be_reopened = True
            self._changed.notify()

    def begin_to_close(self) -> None:
        self._closing.set()
        with self._changed:
            self._changed.notify()

    def finish_closing(self, deadline: float) -> None:
        """A thread that is still stuck then is left behind: it ends with the process, and holds up nothing."""
        if self._thread.ident is not None:  # not when no thread could be started
            self._thread.join(max(0.0, deadline - time.monotonic()))
        if not self._thread.is_alive():
            self._target.close()

    def _write_queue(self) -> None:
        while (piece := self._next_piece()) is not None:
            if self._to_be_reopened:
                self._to_be_reopened = False
                try:
                    self._target.reopen()
                except OSError as error:
                    self._say_once(error)
            data = piece.encode(self.encoding, "backslashreplace")
            while data:
                try:
                    self._target.write(data)
                    break
                except OSError as error:
                    data = data[error.written :] if isinstance(error, PartlyWritten) else data
                    self._say_once(error)
                if self._closing.wait(_RETRY_AFTER):
                    return

    def _next_piece(self) -> str | None:
        """Waits for something to write (empty: there is only something to reopen); None when the sink is being closed
        and all is written."""
        piece: list[str] = []
        length = 0
        with self._changed:
            self._changed.wait_for(
                lambda: self._queue or self._left_out or self._to_be_reopened or self._closing.is_set()
            )
            if not (self._queue or self._left_out or self._to_be_reopened):
                return None
            while self._queue and length < _PIECE:
                piece.append(self._queue.popleft())
                length += len(piece[-1])
            self._queued -= length
            if self._left_out and not self._queue:
                piece.append(
                    f"{self._left_out:,} log lines were left out here: they came faster than they could be written.\n"
                )
                self._left_out = 0
        return "".join(piece)

    def _say_once(self, error: OSError) -> None:
        """The other places show it now, this one when it can be written again."""
        now = time.monotonic()
        if now - self._failure_said >= _SAY_AGAIN_AFTER:
            log.error(
                "Log lines cannot be written to %s (%s). Serving goes on; they are kept until the queue is full.",
                self._target.name,
                error.strerror or error,
            )
        self._failure_said = now


class SinkHandler(logging.Handler):
    """Formatted here and now, so that the sink's thread has nothing to do but write."""

    def __init__(self, sink: Sink | TextIO) -> None:
        super().__init__()
        self._sink = sink

    def reopen(self) -> None:
        if isinstance(self._sink, Sink):
            self._sink.reopen()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # a message and arguments that do not belong together, somebody else's __str__
            line = f"A log line of {record.name} cannot be formatted: {record.msg!r} (line {record.lineno})"
        self._sink.write(line + "\n")


@contextmanager
def running(sinks: Iterable[Sink]) -> Iterator[None]:
    """Left: what was logged is written, or ``_CLOSING_TIME`` has passed for all of them together."""
    sinks = list(sinks)
    try:
        for sink in sinks:
            sink.start()
        yield
    finally:
        for sink in sinks:
            sink.begin_to_close()
        deadline = time.monotonic() + _CLOSING_TIME
        for sink in sinks:
            sink.finish_closing(deadline)


@contextmanager
def written_to(stream: TextIO) -> Iterator[Sink]:
    """A standard stream that nobody who writes to it waits for."""
    sink = Sink(StreamTarget(stream), is_terminal=stream.isatty())
    with running([sink]):
        yield sink


def _file_appended_to(descriptor: int) -> str | None:
    """The path of a regular file that is open for appending. One that is written from its beginning (``> server.log``)
    is somebody's capture of one run, and stays what it is."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND:
        return None
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # no such view of descriptors here
        return None


def write_all(descriptor: int, data: bytes) -> None:
    """Waits for a descriptor that does not block by itself: whoever shares a terminal may have made it so."""
    written = 0
    view = memoryview(data)
    while written < len(data):
        try:
            written += os.write(descriptor, view[written:])
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
        except OSError as error:
            raise PartlyWritten(error, written) from error

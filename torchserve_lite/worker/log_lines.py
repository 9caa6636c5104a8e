"""What a worker writes for the log: a handler's lines, with their level and the requests that it works at, and the
server's own account of failures."""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol, TextIO

from torchserve_lite.core.shortening import REPORT, shortened
from torchserve_lite.ipc.log_lines import RequestIds, marked, request_mark, without_marks

if TYPE_CHECKING:
    from torchserve_lite.ipc.messages import Call

_PATIENCE = 1.0  # seconds for a full pipe that a handler has made non-blocking


class _Request(Protocol):
    call: Call


Requests = Sequence[_Request]
_at_work: Requests = ()  # those that the handler works at, in whatever thread
_at_work_in_task: ContextVar[Requests] = ContextVar("at_work", default=())  # where several batches run concurrently


def working_at(requests: Requests, *, concurrent: bool = False) -> None:
    """What the handler prints and logs from now on is theirs; of none: nobody's. ``concurrent``: this task is one of
    several that work at batches."""
    global _at_work
    if concurrent:
        _at_work_in_task.set(requests)
    else:
        _at_work = requests
    if not requests:
        for stream in _streams:
            stream.say_nobody()


def _requests_at_work() -> Requests:
    return _at_work_in_task.get() or _at_work


def _ids_of(requests: Requests) -> RequestIds:
    return RequestIds.of([request.call.id for request in requests])


class MarkedStream:
    """A standard stream into which marks are written for the server: whose the output is, whenever that has changed.

    Once for each batch that writes something, so that one that writes nothing pays nothing. The stream stays the object
    that it is, since a handler may do with it whatever can be done with a text stream; only its ``write`` is another.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._write = stream.write
        self.said: Requests = ()
        stream.write = self.write  # type: ignore[method-assign]

    def marks(self, stream: TextIO) -> bool:
        return stream is self._stream

    def write(self, text: str) -> int:
        """What is printed. Marks in it are a client's whose text is printed, and no marks."""
        if type(text) is not str:
            return self._write(text)  # which says what it thinks of that
        self._write(self._mark_if_changed() + without_marks(text))
        return len(text)

    def write_logged(self, level: int, text: str) -> None:
        self._write(f"{self._mark_if_changed()}{marked(level, text)}\n")

    def say_nobody(self) -> None:
        """What is written past us, by a library in C or a child process, is not put down to requests that are over."""
        if self.said and not _requests_at_work():
            with suppress(ValueError, OSError):  # the handler has closed it
                self._write(self._mark_if_changed())
                self._stream.flush()

    def _mark_if_changed(self) -> str:
        requests = _requests_at_work()
        if requests is self.said or not (requests or self.said):
            return ""
        self.said = requests
        return request_mark(_ids_of(requests))


_streams: list[MarkedStream] = []  # the process' own, standard output first


class LevelMarks(logging.StreamHandler[TextIO]):
    """The bare message, as TorchServe's workers print it, marked for the server with its level."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = next((stream for stream in _streams if stream.marks(self.stream)), None)
        if stream is None:  # the handler has given us another, which nobody reads marks from
            super().emit(record)
            return
        try:
            stream.write_logged(record.levelno, self.format(record))
            self.flush()
        except Exception:
            self.handleError(record)


class StandardError:
    """The process' standard error as it was at the start, whatever a handler does to streams and descriptors."""

    def __init__(self) -> None:
        self._descriptor = os.dup(2)
        self._identity = _identity(self._descriptor)

    def write(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        for descriptor in (self._descriptor, 2):
            if _identity(descriptor) == self._identity:  # a handler may have closed it, and opened something else
                _write_all(descriptor, data)
                return


_standard_error: StandardError | None = None  # the process', as the descriptors are


def set_up_logging() -> None:
    """As TorchServe's workers have it: INFO and above, the bare message, to stdout. For a process of our own."""
    global _standard_error
    _streams[:] = [MarkedStream(sys.stdout), MarkedStream(sys.stderr)]
    logging.basicConfig(handlers=[LevelMarks(sys.stdout)], level=logging.INFO, format="%(message)s", force=True)
    _standard_error = StandardError()


def report(level: int, message: str) -> None:
    """The server's own words, past everything that a handler controls: logging, ``sys.stderr``, descriptor 2.

    Never raises, and is short enough to be read. In a thread of the server, where there is no process of our own, it
    is a line of the model's log.
    """
    message = shortened(message, REPORT)
    ids = _ids_of(_requests_at_work())
    if _standard_error is None:
        logging.getLogger("MODEL_LOG").log(level, "%s", message, extra={"request_ids": ids})
        return
    said = _ids_of(_streams[1].said)  # in ``sys.stderr``, which does not know that we write past it
    before, after = ("", "") if ids == said else (request_mark(ids), request_mark(said))
    with suppress(OSError):  # nobody is left to read it
        _standard_error.write(f"{before}{marked(level, message)}\n{after}")


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            if not poll.poll(_PATIENCE * 1000):
                return

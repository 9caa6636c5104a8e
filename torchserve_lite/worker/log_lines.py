"""What a worker writes for the log: a handler's lines with their level, and the server's own account of failures."""

from __future__ import annotations

import logging
import os
import select
import sys
from contextlib import suppress

from torchserve_lite.core.shortening import REPORT, shortened
from torchserve_lite.ipc.log_lines import marked

_PATIENCE = 1.0  # seconds for a full pipe that a handler has made non-blocking


class LevelMarks(logging.Formatter):
    """The bare message, as TorchServe's workers print it, marked for the server with its level."""

    def format(self, record: logging.LogRecord) -> str:
        return marked(record.levelno, super().format(record))


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
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, force=True)
    logging.getLogger().handlers[0].setFormatter(LevelMarks())
    _standard_error = StandardError()


def report(level: int, message: str) -> None:
    """The server's own words, past everything that a handler controls: logging, ``sys.stderr``, descriptor 2.

    Never raises, and is short enough to be read. In a thread of the server, where there is no process of our own, it
    is a line of the model's log.
    """
    message = shortened(message, REPORT)
    if _standard_error is None:
        logging.getLogger("MODEL_LOG").log(level, "%s", message)
        return
    with suppress(OSError):  # nobody is left to read it
        _standard_error.write(marked(level, message) + "\n")


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

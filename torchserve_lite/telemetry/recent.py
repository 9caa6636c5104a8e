"""What has happened lately, kept in memory for whoever looks at a running server: log lines and failures of workers."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from torchserve_lite.core.models import ModelKey
from torchserve_lite.core.shortening import shortened
from torchserve_lite.errors import LoadFailed, WorkerFailure

_LONGEST = 4_000  # characters that are kept of a message, and of a traceback

T = TypeVar("T")


class Recent(Generic[T]):
    """The last ``kept`` entries, from any thread. A reader remembers how many there had been when it last looked."""

    def __init__(self, kept: int) -> None:
        self._entries: deque[T] = deque(maxlen=kept)
        self._lock = threading.Lock()
        self._count = 0

    def add(self, entry: T) -> None:
        with self._lock:
            self._entries.append(entry)
            self._count += 1

    def since(self, count: int) -> tuple[Sequence[T], int]:
        """What has come since there had been ``count``, as far as it is still there; and how many there are now."""
        with self._lock:
            there = len(self._entries)
            return list(islice(self._entries, max(0, there - (self._count - count)), None)), self._count


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """``at``: wall-clock seconds since the epoch. ``source``: the worker that wrote it; ``main`` for the server."""

    at: float
    level: str
    source: str
    logger: str
    message: str
    traceback: str


class RecentLines(logging.Handler):
    """The last lines of the server and its workers, in the levels that are logged at all."""

    def __init__(self, kept: int) -> None:
        super().__init__()
        self.lines: Recent[LogLine] = Recent(kept)
        self._layout = logging.Formatter()

    @contextmanager
    def listening(self) -> Iterator[None]:
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # a message and arguments that do not belong together, somebody else's __str__
            message = f"A log line of {record.name} cannot be formatted: {record.msg!r}"
        traceback = self._layout.formatException(record.exc_info) if record.exc_info else ""
        self.lines.add(
            LogLine(
                at=record.created,
                level=record.levelname,
                source=str(getattr(record, "source", "main")),
                logger=record.name,
                message=shortened(message, _LONGEST),
                traceback=shortened(traceback, _LONGEST),
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenFailure:
    """A worker has died or could not be started. ``reason``: the exception's name, as in ts_worker_failures_total."""

    at: float
    model: str
    version: str
    worker: str
    reason: str
    message: str
    traceback: str


def seen_failure(key: ModelKey, worker: str, error: WorkerFailure) -> SeenFailure:
    """At this moment."""
    return SeenFailure(
        at=time.time(),
        model=key.name,
        version=key.version,
        worker=worker,
        reason=type(error).__name__,
        message=shortened(str(error), _LONGEST),
        traceback=shortened(error.traceback, _LONGEST) if isinstance(error, LoadFailed) else "",
    )

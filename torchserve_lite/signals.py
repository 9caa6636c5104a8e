"""What signals do to a running server: SIGTERM and SIGINT stop it, SIGHUP opens its log files anew."""

from __future__ import annotations

import asyncio
import logging
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

log = logging.getLogger(__name__)


@contextmanager
def stop_signals(*numbers: signal.Signals) -> Iterator[asyncio.Event]:
    """Set by the first signal; a second one ends the process at once, as by default."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def begin_to_stop() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, begin_to_stop)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextmanager
def hangups(reopen_logs: Callable[[], None], stop: asyncio.Event) -> Iterator[None]:
    """On SIGHUP the log files are opened anew, as logrotate wants it. Never the end of the server, but for one in a
    terminal that has been closed: it stops as it does on SIGTERM, unless it was started to outlive that (nohup)."""
    loop = asyncio.get_running_loop()
    former = signal.getsignal(signal.SIGHUP)
    terminals = [] if former is signal.SIG_IGN else [stream for stream in (sys.stdout, sys.stderr) if stream.isatty()]

    def hang_up() -> None:
        if any(map(_has_gone, terminals)):
            log.warning("The terminal has been closed: the server stops.")
            stop.set()
            return
        reopen_logs()
        log.info("SIGHUP: the log files have been opened anew.")

    loop.add_signal_handler(signal.SIGHUP, hang_up)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, former)  # the stop goes on for a while


def _has_gone(terminal: TextIO) -> bool:
    poll = select.poll()
    poll.register(terminal, 0)  # a hangup is told unasked
    return bool(poll.poll(0))

"""What a parent hands to a child it starts, and the child's first steps. Imports next to nothing, so it starts fast."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from multiprocessing import reduction
from types import FrameType
from typing import Any, NoReturn

WORKER_MODULE = "torchserve_lite.worker.loop"  # by name: the front process never imports it


class Descriptor:
    """A file descriptor that travels with a ``multiprocessing`` fork request; ``detach()`` gives it on arrival."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_it_came, (reduction.DupFd(self._fd),)


def _as_it_came(descriptor: Any) -> Any:
    return descriptor


def become_worker(link: Any, stage: Any, stdout: Any, stderr: Any) -> NoReturn:
    """Target of a forked child. The arguments were sent as ``Descriptor``."""
    _redirect(stdout.detach(), 1)
    _redirect(stderr.detach(), 2)
    _redirect(os.open(os.devnull, os.O_RDONLY), 0)
    multiprocessing.set_start_method(None, force=True)  # what the fork server had is nothing that a handler chose
    run_worker(link.detach(), stage.detach())


def run_worker(link_fd: int, stage_fd: int) -> NoReturn:
    """Runs the worker's loop and ends the process without waiting for threads that a handler left behind."""
    _ignore_terminal_signals()
    code = 1
    try:
        code = _run(link_fd, stage_fd)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # whatever a handler has done to the streams
        os._exit(code & 0xFF)


def _run(link_fd: int, stage_fd: int) -> int:
    try:
        importlib.import_module(WORKER_MODULE).run(socket.socket(fileno=link_fd), stage_fd)
    except SystemExit as exit_request:
        return _exit_code(exit_request.code)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _exit_code(asked: object) -> int:
    """As the interpreter takes what ``sys.exit`` was given: nothing, a number, or a message for stderr."""
    if asked is None or isinstance(asked, int):
        return asked or 0
    print(asked, file=sys.stderr)
    return 1


def _redirect(fd: int, target: int) -> None:
    os.dup2(fd, target)
    os.close(fd)


def _ignore_terminal_signals() -> None:
    """Ctrl-C and a service manager's SIGTERM reach the whole group; a worker ends when its parent lets go of it.

    A handler that does nothing, not SIG_IGN: an ignored signal would be inherited by programs that a handler starts.
    Processes that it forks get the signals' defaults back: a pool of them is ended by SIGTERM.
    """
    signals, masks = {signal.SIGINT, signal.SIGTERM}, list[set[int]]()

    def hold() -> None:  # a signal that comes before the child has its defaults would be lost
        masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, signals)))

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop())

    def release_with_defaults() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        release()

    for number in signals:
        signal.signal(number, _stay)
    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=release_with_defaults)


def _stay(number: int, frame: FrameType | None) -> None:
    pass

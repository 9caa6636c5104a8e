"""What a parent hands to a child it starts, and the child's first steps. Imports next to nothing, so it starts fast."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import traceback
from multiprocessing import reduction
from types import FrameType
from typing import Any, NoReturn

WORKER_MODULE = "torchserve_lite.worker.main"  # by name: the front process never imports it


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
    run_worker(link.detach(), stage.detach())


def run_worker(link_fd: int, stage_fd: int) -> NoReturn:
    """Runs the worker's loop and ends the process without waiting for threads that a handler left behind."""
    _outlive_terminal_signals()
    code = 0
    try:
        importlib.import_module(WORKER_MODULE).run(socket.socket(fileno=link_fd), stage_fd)
    except SystemExit as exit_request:
        code = exit_request.code if isinstance(exit_request.code, int) else int(exit_request.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(fd: int, target: int) -> None:
    os.dup2(fd, target)
    os.close(fd)


def _outlive_terminal_signals() -> None:
    """Ctrl-C and a service manager's SIGTERM reach the whole group; a worker ends when its parent lets go of it.

    A handler that does nothing, not SIG_IGN: an ignored signal would be inherited by programs that a handler starts.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stay)


def _stay(number: int, frame: FrameType | None) -> None:
    pass

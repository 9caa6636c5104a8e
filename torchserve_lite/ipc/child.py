"""What a process that the server has started becomes, and its first steps. Imports next to nothing, to be fast."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from torchserve_lite.ipc.starting import StartingProcess, signalled_at_the_end_of, stay

WORKER_MODULE = "torchserve_lite.worker.loop"  # by name: the front process never imports it
_PRELOADED_MODULE = "torchserve_lite.worker.preload"


def become_starter(control: int, server: int, soft_limit: int) -> NoReturn:
    """Executes workers, and forks the preloading process. ``soft_limit`` of open files: what handlers are to find."""
    # A process that is stopped hears nothing of its parent's end. This makes it go on, and harms no other.
    signalled_at_the_end_of(server, signal.SIGCONT)
    with suppress(ValueError, OSError):  # the hard limit has been lowered meanwhile
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    StartingProcess(socket.socket(fileno=control), become_preloading).serve()


def become_preloading(parent: int, descriptors: Sequence[int]) -> NoReturn:
    """Imports what most workers need, and forks them."""
    signalled_at_the_end_of(parent, signal.SIGCONT)
    (forks,) = descriptors
    process = StartingProcess(socket.socket(fileno=forks), become_worker)
    process.serve(prepare=lambda: importlib.import_module(_PRELOADED_MODULE))


def become_worker(parent: int, descriptors: Sequence[int]) -> NoReturn:
    """What a fork of the preloading process does."""
    link, stage, stdout, stderr = descriptors
    _redirect(stdout, 1)
    _redirect(stderr, 2)
    _redirect(os.open(os.devnull, os.O_RDONLY), 0)
    run_worker(link, stage, parent)


def run_worker(link_fd: int, stage_fd: int, parent: int) -> NoReturn:
    """Runs the worker's loop and ends the process without waiting for threads that a handler left behind."""
    signalled_at_the_end_of(parent, signal.SIGKILL)
    for descriptor in (link_fd, stage_fd):
        os.set_inheritable(descriptor, False)  # not for programs that a handler starts
    _ignore_terminal_signals()
    code = 1
    try:
        code = exit_code_of(lambda: importlib.import_module(WORKER_MODULE).run(socket.socket(fileno=link_fd), stage_fd))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # whatever a handler has done to the streams
        os._exit(code & 0xFF)


def exit_code_of(run: Callable[[], None]) -> int:
    """What a process that does nothing else would end with. An exception that nobody catches is told on stderr."""
    try:
        run()
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
        signal.signal(number, stay)
    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=release_with_defaults)

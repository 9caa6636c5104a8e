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
    """What a fork of the preloading process does. A sixth descriptor makes it a fork server, once it has loaded its
    model: ``worker/fork_server.py``."""
    link, stage, slabs, stdout, stderr, *forks = descriptors
    _take_streams(stdout, stderr)
    run_worker(link, stage, slabs, parent, *forks)


def run_worker(link_fd: int, stage_fd: int, slabs_fd: int, parent: int, forks_fd: int | None = None) -> NoReturn:
    """Runs the worker's loop and ends the process without waiting for threads that a handler left behind."""
    _ignore_terminal_signals()
    os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_release_with_defaults)
    forks = None if forks_fd is None else socket.socket(fileno=forks_fd)
    _run_to_the_end(
        lambda: importlib.import_module(WORKER_MODULE).run(
            socket.socket(fileno=link_fd), stage_fd, slabs_fd, forks=forks
        ),
        parent,
        link_fd,
        stage_fd,
        slabs_fd,
    )


def go_on_as_worker(
    parent: int, descriptors: Sequence[int], run: Callable[[socket.socket, int, int], None]
) -> NoReturn:
    """What a fork of a fork server does: ``run`` is told its own link and the descriptors of its stage marker and of
    the slabs."""
    link_fd, stage_fd, slabs_fd, stdout, stderr = descriptors
    _take_streams(stdout, stderr)
    _ignore_terminal_signals()
    link = socket.socket(fileno=link_fd)
    _run_to_the_end(lambda: run(link, stage_fd, slabs_fd), parent, link_fd, stage_fd, slabs_fd)


def _run_to_the_end(run: Callable[[], None], parent: int, *descriptors: int) -> NoReturn:
    signalled_at_the_end_of(parent, signal.SIGKILL)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)  # not for programs that a handler starts
    code = 1
    try:
        code = exit_code_of(run)
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


def _take_streams(stdout: int, stderr: int) -> None:
    _redirect(stdout, 1)
    _redirect(stderr, 2)
    _redirect(os.open(os.devnull, os.O_RDONLY), 0)


def _redirect(fd: int, target: int) -> None:
    os.dup2(fd, target)
    os.close(fd)


_TERMINAL_SIGNALS = {signal.SIGINT, signal.SIGTERM}
_masks: list[set[int]] = []


def _ignore_terminal_signals() -> None:
    """Ctrl-C and a service manager's SIGTERM reach the whole group; a worker ends when its parent lets go of it.

    A handler that does nothing, not SIG_IGN: an ignored signal would be inherited by programs that a handler starts.
    Processes that it forks get the signals' defaults back: a pool of them is ended by SIGTERM.
    """
    for number in _TERMINAL_SIGNALS:
        signal.signal(number, stay)


def _hold_signals() -> None:  # one that comes before the child has its defaults would be lost
    _masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL_SIGNALS)))


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())


def _release_with_defaults() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _release_signals()

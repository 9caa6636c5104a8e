"""A worker that forks others instead of serving, once it has loaded its model: they share what they do not write to.

A fork has one thread and shares the open files of its parent. So a handler is only forked when loading it has left
nothing behind that each worker must have for itself; what cannot be told is in ``docs/model-formats.md``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from torchserve_lite.ipc.child import go_on_as_worker
from torchserve_lite.ipc.starting import StartingProcess, children_of
from torchserve_lite.worker.handlers import Handler

log = logging.getLogger(__name__)


class ForkServer:
    """Told before and after a handler is loaded. ``forks`` is closed, before anybody hears that the handler has been
    loaded, when each worker must load it for itself."""

    def __init__(self, forks: socket.socket, link: socket.socket) -> None:
        self._forks = forks
        self._link = link  # of this process, which is not its forks'
        self._threads = 1
        self._before: _Surroundings | None = None
        self.usable = False

    def loading(self, threads: int) -> None:
        """``threads``: how many torch is to have for requests, 0 for as many as it has. While the handler is loaded it
        has one, since a pool of them would not be in the forks."""
        if torch := sys.modules.get("torch"):
            self._threads = threads or torch.get_num_threads()
            torch.set_num_threads(1)
        self._before = _Surroundings.now()

    def loaded(self, handler: Handler) -> None:
        problem = "this system cannot tell what it has left" if sys.platform != "linux" else self._problem(handler)
        self.usable = not problem
        if problem:
            log.info("Each worker of this model loads it for itself and holds its own copy: %s.", problem)
            self._forks.close()
            self._use_all_threads()

    def _problem(self, handler: Handler) -> str:
        if handler.is_async:
            return "its handler is a coroutine function, and what it has made belongs to one event loop"
        cuda = getattr(sys.modules.get("torch"), "cuda", None)
        if cuda is not None and cuda.is_initialized():
            return "its handler has begun to use a GPU"
        if asyncio.all_tasks(asyncio.get_event_loop()):
            return "its handler has left tasks on the event loop"
        assert self._before is not None
        return self._before.what_loading_left(_Surroundings.now())

    def serve(self, run: Callable[[socket.socket, int, int], None]) -> NoReturn:
        """Forks a worker for each request. ``run`` is its life: it is told its link and the descriptors of its stage
        marker and of the slabs."""

        def begin(link: socket.socket, stage_fd: int, slabs_fd: int) -> None:
            self._link.close()
            self._use_all_threads()
            if "numpy.random" in sys.modules:  # as in ``prepare_process``: random does this by itself
                sys.modules["numpy.random"].seed()
            run(link, stage_fd, slabs_fd)

        StartingProcess(self._forks, partial(go_on_as_worker, run=begin)).serve()

    def _use_all_threads(self) -> None:
        torch = sys.modules.get("torch")
        if torch is not None and torch.get_num_threads() == 1 != self._threads:  # else the handler has chosen
            torch.set_num_threads(self._threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Surroundings:
    """What a process has that a fork would lack, or share with others."""

    threads: int
    children: frozenset[int]
    descriptors: frozenset[tuple[str, str]]
    shared_memory: int
    signals: tuple[object, ...]
    randomness: tuple[object, ...]

    @classmethod
    def now(cls) -> _Surroundings:
        if sys.platform != "linux":
            return cls(
                threads=1, children=frozenset(), descriptors=frozenset(), shared_memory=0, signals=(), randomness=()
            )
        with open("/proc/self/maps") as maps:
            shared = sum(line.split(" ", 2)[1].endswith("s") for line in maps)
        handled = (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM)
        timers = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
        return cls(
            threads=len(os.listdir("/proc/self/task")),
            children=frozenset(children_of(os.getpid())),
            descriptors=frozenset(_open_files()),
            shared_memory=shared,
            signals=(*map(signal.getsignal, handled), *map(signal.getitimer, timers)),
            randomness=_randomness(),
        )

    def what_loading_left(self, after: _Surroundings) -> str:
        if after.threads > 1:
            return "its handler has started threads"
        if after.children - self.children:
            return "its handler has started processes"
        if new := {target for _, target in after.descriptors - self.descriptors}:
            return f"its handler has files or connections open ({', '.join(sorted(new)[:3])})"
        if after.shared_memory > self.shared_memory:
            return "its handler has made memory that processes share"
        if after.signals != self.signals:
            return "its handler has set up signals or timers"
        if after.randomness != self.randomness:
            return "its handler has seeded random numbers, or drawn many"
        return ""


def _open_files() -> list[tuple[str, str]]:
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.append((descriptor, os.readlink(f"/proc/self/fd/{descriptor}")))
        except OSError:  # that of the list itself
            continue
    return found


def _randomness() -> tuple[object, ...]:
    """What changes when a generator is seeded. Forks draw numbers of their own, so a handler that has seeded them would
    not get its own again."""
    numpy, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    drawn: Any = random.getstate()[1]
    return (
        drawn[:-1],
        numpy.get_state()[1].tobytes() if numpy else b"",
        torch.initial_seed() if torch else 0,
    )

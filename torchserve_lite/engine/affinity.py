"""One core for each worker, where the kernel has nothing better to offer.

Left alone, the kernel puts two busy workers on one core for parts of a batch, while another core is idle. A worker that
is bound to a core cannot give way either, so this is for one case only: as many workers as there are cores, all of one
model and with a single thread each, on a machine that nobody else has divided up.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from torchserve_lite.engine.devices import cpu_quota


def cores_to_share_out() -> tuple[int, ...]:
    """All cores of the machine; none when an operator or a container's quota has divided them up."""
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return ()
    mask = os.sched_getaffinity(0)
    quota = cpu_quota()
    whole = len(mask) == os.cpu_count() and (quota is None or quota >= len(mask))
    return tuple(sorted(mask)) if whole else ()


class WorkerAffinity:
    """Binds workers to ``cores``, and lets go of them again. No cores: it leaves all workers alone."""

    def __init__(self, cores: Sequence[int]) -> None:
        self.cores = cores
        self._core_of: dict[int, int] = {}  # worker's pid -> the core that it is bound to

    def bind(self, pids: Iterable[int]) -> None:
        """Gives each of these a core of its own, whoever else had one loses it. Nobody gets one when there are more
        workers than cores, or when a handler has started threads, which would share that core."""
        workers = list(pids)
        if len(workers) > len(self.cores) or any(_threads(pid) != [pid] for pid in workers):
            workers = []
        for pid in [pid for pid in self._core_of if pid not in workers]:
            self._release(pid)
        free = [core for core in self.cores if core not in self._core_of.values()]
        for pid in workers:
            if pid not in self._core_of:
                core = free.pop(0)
                with suppress(OSError):  # it has just ended, or a container forbids it
                    os.sched_setaffinity(pid, {core})
                    self._core_of[pid] = core

    @property
    def bound(self) -> Mapping[int, int]:
        """The core of each worker that has one, by its pid."""
        return self._core_of

    def _release(self, pid: int) -> None:
        """With the threads that it has started meanwhile. One whose core is no longer the one that we gave is not ours
        any more: its handler has chosen, or it is another process of this number."""
        core = self._core_of.pop(pid)
        for thread in _threads(pid):
            with suppress(OSError):
                if os.sched_getaffinity(thread) == {core}:
                    os.sched_setaffinity(thread, self.cores)


def _threads(pid: int) -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    except OSError:  # it has ended
        return []

"""A server as the operating system sees it: its processes' CPU time and memory, and their end."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import psutil

GONE = (psutil.NoSuchProcess, psutil.ZombieProcess, FileNotFoundError, ProcessLookupError, PermissionError)


def tree(pid: int) -> list[psutil.Process]:
    """The process and all its descendants."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except GONE:
        return []


def cpu_seconds(pid: int) -> float:
    """CPU time of the tree so far, of children that have ended and were waited for as well."""
    total = 0.0
    for process in tree(pid):
        with contextlib.suppress(*GONE):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def proportional_memory(pid: int) -> int:
    """Bytes of the tree, each page divided by the number of processes that share it (PSS): no page counts twice."""
    return sum(pss(process.pid) for process in tree(pid))


def pss(pid: int) -> int:
    with contextlib.suppress(*GONE):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def end(pid: int, patience: float = 20.0) -> None:
    """Asks the root process to stop, waits, and kills what is left of the tree."""
    processes = tree(pid)
    if processes:
        with contextlib.suppress(*GONE):
            processes[0].terminate()
    psutil.wait_procs(processes[:1], timeout=patience)
    _, left = psutil.wait_procs(processes, timeout=1.0)
    for process in left:
        with contextlib.suppress(*GONE):
            process.kill()
    psutil.wait_procs(left, timeout=patience)


class PeakMemory:
    """The most that a tree held at any time within the block (PSS), looked at every ``interval`` seconds."""

    def __init__(self, pid: int, interval: float = 0.1) -> None:
        self._pid = pid
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            self.bytes = max(self.bytes, proportional_memory(self._pid))


def wait_until_idle(pid: int, patience: float = 3.0) -> None:
    """Waits until the tree has done what its clients left behind, so that it does not take from whoever is next."""
    before = cpu_seconds(pid)
    for _ in range(int(patience / 0.1)):
        time.sleep(0.1)
        now = cpu_seconds(pid)
        if now - before <= 0.02:
            return
        before = now

"""A server as the operating system sees it: its processes' CPU time and memory, and their end."""

from __future__ import annotations

import contextlib
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

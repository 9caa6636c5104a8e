"""Starts the processes that start workers. Imports next to nothing: it is the first thing a server does."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from torchserve_lite.ipc.starting import request_fork

# A virtual environment need not contain us: it gets the folder we were imported from, behind its own packages.
_ROOT = str(Path(__file__).parent.parent.parent)
_PROGRAM = (
    "import sys\n"
    "if '' in sys.path[:1]: del sys.path[0]\n"
    "sys.path.append({root!r})\n"
    "from torchserve_lite.ipc.child import {entry}\n"
    "{entry}(*map(int, sys.argv[1:]))"
)
PRELOADING = 0  # the number of the request for the preloading process


def python_command(python: str, entry: str) -> list[str]:
    """A Python that calls a function of ``ipc/child.py`` with the numbers that follow the command."""
    return [python, "-c", _PROGRAM.format(root=_ROOT, entry=entry)]


@dataclass(slots=True)
class StarterProcess:
    """The process that executes interpreters, and our ends of its socket and of the preloading process'."""

    soft_limit: int  # of open files, as the operator set it
    process: subprocess.Popen[bytes] = field(init=False)
    control: socket.socket = field(init=False)
    forks: socket.socket = field(init=False)

    def begin(self) -> None:
        """Starts both; returns at once. Those that were there before have ended."""
        control, theirs = socket.socketpair()
        numbers = theirs.fileno(), os.getpid(), self.soft_limit
        try:
            with theirs:
                self.process = subprocess.Popen(
                    [*python_command(sys.executable, "become_starter"), *map(str, numbers)],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # a terminal's Ctrl-C is for the server alone
                )
        except BaseException:
            control.close()
            raise
        control.setblocking(False)
        self.control = control
        self.preload()

    def preload(self) -> None:
        """Starts the preloading process. Requests for forks wait in its socket until its imports are done."""
        self.forks, theirs = socket.socketpair()
        self.forks.setblocking(False)
        with theirs:
            request_fork(self.control, PRELOADING, [theirs.fileno()])


_starter: StarterProcess | None = None  # one for this process, as the children that it has are


def start_preloading() -> StarterProcess:
    """Begins importing torch in a process of its own; returns at once. Harmless when called again."""
    global _starter
    if _starter is None:
        starter = StarterProcess(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        starter.begin()
        _starter = starter
    return _starter

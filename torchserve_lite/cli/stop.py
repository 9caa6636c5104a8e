"""``torchserve-lite stop``: asks the running server to finish, and waits until it has."""

from __future__ import annotations

import argparse
import os
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from torchserve_lite.cli.pidfile import (
    forget,
    is_ours,
    pid_file,
    running_server,
    server_of_pid,
    tell_of,
    unregistered_servers,
)

if TYPE_CHECKING:
    import psutil

PATIENCE = 60.0  # seconds; more than the default shutdown_grace_seconds and what comes after it

EXAMPLES = (
    "torchserve-lite stop",
    "torchserve-lite stop --pid 4711",
    "torchserve-lite stop --pid-file /run/torchserve-lite/pid",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--pid-file", type=Path, metavar="FILE", help="the file that start was given; default: its default"
    )
    which.add_argument("--pid", type=int, metavar="N", help="the server to stop; default: that of the pid file")


def run(arguments: argparse.Namespace) -> int:
    file = arguments.pid_file or pid_file()
    server = running_server(file) if arguments.pid is None else server_of_pid(arguments.pid)
    if server is None and arguments.pid is not None:
        print(f"torchserve-lite: process {arguments.pid} is no server that runs.", file=sys.stderr)
        return 1
    if server is None and arguments.pid_file is not None:
        print(f"torchserve-lite: {file} names no server that runs.", file=sys.stderr)
        return 1
    if server is None:
        if others := unregistered_servers():
            print(tell_of(others), file=sys.stderr)
            return 1 if any(map(is_ours, others)) else 0
        print("No server is running.")
        return 0
    print(f"Stopping the server (pid {server.pid}) ...", flush=True)
    return finish(server, "The server has stopped.", file=file)


def finish(server: psutil.Process, farewell: str, patience: float = PATIENCE, file: Path | None = None) -> int:
    """SIGTERM, then wait; the exit code tells whether the server is gone. ``file``: the one that names it, if that is
    not the default one."""
    import psutil

    try:
        server.terminate()
    except psutil.AccessDenied:
        print(f"The server (pid {server.pid}) belongs to another user, who must stop it.", file=sys.stderr)
        return 1
    except psutil.NoSuchProcess:
        pass  # it has just ended by itself
    if not _has_ended(server, patience):
        print(
            f"The server (pid {server.pid}) is still finishing after {patience:g} s. "
            f"Wait for it, or end it at once with: kill -9 {server.pid}",
            file=sys.stderr,
        )
        return 1
    forget(server.pid, file)
    print(farewell)
    return 0


def _has_ended(server: psutil.Process, patience: float) -> bool:
    """A pidfd tells of the end even where nobody collects the dead process, as in containers without an init."""
    import psutil

    try:
        descriptor = os.pidfd_open(server.pid)
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):  # not Linux, or forbidden here
        try:
            server.wait(patience)
        except psutil.TimeoutExpired:
            return False
        return True
    with os.fdopen(descriptor, "rb") as handle:
        return bool(select.select([handle], [], [], patience)[0])

"""``torchserve-lite stop``: asks the running server to finish, and waits until it has."""

from __future__ import annotations

import argparse
import os
import select
import sys
from typing import TYPE_CHECKING

from torchserve_lite.cli.pidfile import pid_file, running_server

if TYPE_CHECKING:
    import psutil

PATIENCE = 60.0  # seconds; more than the default shutdown_grace_seconds and what comes after it

EXAMPLES = ("torchserve-lite stop",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Nothing to say: there is one pid file."""


def run(arguments: argparse.Namespace) -> int:
    server = running_server(pid_file())
    if server is None:
        print("No server is running.")
        return 0
    print(f"Stopping the server (pid {server.pid}) ...", flush=True)
    return finish(server, "The server has stopped.")


def finish(server: psutil.Process, farewell: str, patience: float = PATIENCE) -> int:
    """SIGTERM, then wait; the exit code tells whether the server is gone."""
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
    pid_file().unlink(missing_ok=True)
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

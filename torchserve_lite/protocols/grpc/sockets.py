"""The sockets of gRPC's listeners, which gRPC hands to nobody, and how they are closed so that no call is cancelled."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator
from contextlib import suppress

from torchserve_lite.protocols.http.connections import ignore_new_clients


def has_clients(ports: Collection[int]) -> bool:
    """Whether anybody is connected to ``ports``."""
    return any(not _listens(found) for found in _sockets_on(ports))


def cut_off(ports: Collection[int]) -> None:
    """Ends every connection to ``ports``, and lets nobody in any more.

    gRPC, when it is stopped, tells CANCELLED to calls that came in and have not begun, and to those that cross its
    GOAWAY. Clients try again on UNAVAILABLE only, which is what a connection that ends means.
    """
    for found in _sockets_on(ports):
        if _listens(found):
            ignore_new_clients(found)
        else:
            with suppress(OSError):  # its client has gone
                found.shutdown(socket.SHUT_RDWR)


def _listens(found: socket.socket) -> bool:
    return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _sockets_on(ports: Collection[int]) -> Iterator[socket.socket]:
    """Second holds on them, each for one turn: closing one closes nothing."""
    try:
        descriptors = sorted(map(int, os.listdir("/proc/self/fd")))  # listeners came before their connections
    except OSError:  # not Linux
        return
    for descriptor in descriptors:
        with suppress(OSError):  # it is no socket, or has been closed meanwhile
            hold = os.dup(descriptor)
            try:
                found = socket.socket(fileno=hold)
            except OSError:
                os.close(hold)
                raise
            with found:
                if found.family in (socket.AF_INET, socket.AF_INET6) and found.getsockname()[1] in ports:
                    yield found

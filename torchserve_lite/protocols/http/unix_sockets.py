"""The files of listeners on Unix sockets: made with their permissions, never taken from a server that lives, and gone
with their listener."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SocketFile:
    """Where clients find a listener."""

    path: str
    inode: int

    def remove(self) -> None:
        """Nobody finds it any more. Unless another server's is in its place by now."""
        with contextlib.suppress(OSError):  # it has been removed already, or its folder has
            if os.lstat(self.path).st_ino == self.inode:
                os.unlink(self.path)


def bind_unix_socket(path: str, mode: int) -> tuple[socket.socket, SocketFile]:
    """One to listen on. OSError says why there is none.

    A file that a killed server left behind is replaced. Not by asyncio, which replaces a living server's, too: that
    server would go on without a client.
    """
    _remove_if_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(path)
        os.chmod(path, mode)  # nobody has got in before: until it is listened on, whoever connects is refused
        return listening, SocketFile(path, os.lstat(path).st_ino)
    except OSError:
        listening.close()
        raise


def _remove_if_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(errno.EEXIST, "there is something of that name which is no socket, and it is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)  # with a full backlog it would wait, and BlockingIOError says as well that it lives
        try:
            client.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, "another server listens on it")

"""``torchserve-lite logs``: the last lines of the running server's log files, and those that come."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO

from torchserve_lite.cli.pidfile import pid_file, running_server
from torchserve_lite.errors import NotFound

EXAMPLES = ("torchserve-lite logs", "torchserve-lite logs -f", "torchserve-lite logs access -n 100 -f")

_FILES = {"server": "ts_log.log", "model": "model_log.log", "access": "access_log.log"}
_LOOKS_EVERY = 0.2  # seconds; files tell nobody on every system when they grow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "which",
        nargs="?",
        choices=_FILES,
        default="server",
        help="server: everything but requests (the default); model: what handlers print and log; access: requests",
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on with the lines that come, until Ctrl-C")
    parser.add_argument("-n", "--lines", type=int, default=20, metavar="N", help="how many to begin with; default: 20")
    parser.add_argument("--pid-file", type=Path, metavar="FILE", help="names the server, as start was given it")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where the files are; default: those of the server that the pid "
        "file names, else LOG_LOCATION, else logs"
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    file = (arguments.folder or _folder_of_the_server(arguments.pid_file)) / _FILES[arguments.which]
    if not file.is_file():
        raise NotFound(f"There is no log file {file}. --folder names the folder of the server's log files.")
    with Tail(file) as tail:
        _print(tail.last(arguments.lines))
        try:
            while arguments.follow:
                _print(tail.new())
                time.sleep(_LOOKS_EVERY)
        except KeyboardInterrupt:  # the way in which following ends
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    return 0


def _folder_of_the_server(file: Path | None) -> Path:
    """As the server sees it: it may run in another folder, with other variables."""
    import psutil

    server = running_server(file or pid_file())
    if server is None:
        return Path(os.environ.get("LOG_LOCATION") or "logs")
    try:
        return Path(server.cwd(), server.environ().get("LOG_LOCATION") or "logs")
    except psutil.AccessDenied as error:
        raise NotFound(
            f"Where the server (pid {server.pid}) has its log files is for its own user to see; name their folder with "
            "--folder."
        ) from error


def _print(data: bytes) -> None:
    """On a terminal, what a handler printed must not drive it."""
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    text = data.decode(errors="backslashreplace")
    print("".join(sign if sign.isprintable() or sign in "\n\t" else ascii(sign)[1:-1] for sign in text), end="")
    sys.stdout.flush()


class Tail:
    """A file that grows, and is replaced by a new one when it has grown enough."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Tail:
        self._file: BinaryIO = self._path.open("rb")
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def last(self, lines: int) -> bytes:
        return b"".join(deque(self._file, maxlen=max(lines, 0)))

    def new(self) -> bytes:
        """What has come since the last call: the rest of the old file and the beginning of the new one."""
        data = self._file.read()
        try:
            now = self._path.stat()
        except FileNotFoundError:  # between the old one and the new one
            return data
        before = os.fstat(self._file.fileno())
        if (now.st_ino, now.st_dev) != (before.st_ino, before.st_dev):
            data += self._file.read()  # written between the first look and the change
            self._file.close()
            self._file = self._path.open("rb")
            data += self._file.read()
        elif now.st_size < self._file.tell():  # emptied
            self._file.seek(0)
            data += self._file.read()
        return data

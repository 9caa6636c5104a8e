"""The pid file, by which ``stop`` finds the server. Its place and form are TorchServe's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from torchserve_lite.cli.start_checks import temporary_folder
from torchserve_lite.errors import ConfigurationError

if TYPE_CHECKING:
    import psutil

_OUR_PROGRAMS = {"torchserve-lite", "torchserve", "torchserve_lite"}


def pid_file() -> Path:
    return temporary_folder(os.environ) / ".model_server.pid"


def running_server(file: Path) -> psutil.Process | None:
    """The server that the file names. A file whose server is gone is removed, if that is ours to do."""
    if not file.exists():
        return None
    process = _server(_pid_in(file))
    if process is None:
        print("Removing orphan pid file.", flush=True)
        with suppress(OSError):  # another user's, or no file: who wants to write it will say so
            file.unlink(missing_ok=True)
    return process


def _pid_in(file: Path) -> int | None:
    try:
        return int(file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _server(pid: int | None) -> psutil.Process | None:
    """The process, if it is one of our servers: by now its number may belong to anything else.

    Even to ourselves: in a restarted container, processes get the same numbers again.
    """
    import psutil

    if pid is None or pid < 1 or pid == os.getpid():
        return None
    try:
        process = psutil.Process(pid)
        program, *arguments = process.cmdline() or [""]
    except psutil.NoSuchProcess:  # or a zombie, which psutil takes for a kind of it
        return None
    is_ours = "python" in Path(program).name and any(Path(argument).name in _OUR_PROGRAMS for argument in arguments)
    return process if is_ours else None


@contextmanager
def registered(file: Path, *, required: bool = False) -> Iterator[tuple[str, ...]]:
    """While entered, the file names this process. Yields what the user should know if that cannot be.

    ``required``: then it is an error, for a server in the background that nobody could stop otherwise.
    """
    if other := running_server(file):
        yield (f"Another server (pid {other.pid}) is registered in {file}; the stop command stops that one, not this.",)
        return
    try:
        # Never through a link that somebody else left in the shared temporary folder.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o644)
        with os.fdopen(descriptor, "w") as output:
            output.write(f"{os.getpid()}\n")
    except OSError as error:
        reason = f"{file} cannot be written ({error.strerror}); the stop command will not find this server."
        if required:
            raise ConfigurationError(f"{reason} Remove what is there, or name another folder by TMPDIR.") from error
        yield (reason,)
        return
    try:
        yield ()
    finally:
        if _pid_in(file) == os.getpid():
            file.unlink(missing_ok=True)

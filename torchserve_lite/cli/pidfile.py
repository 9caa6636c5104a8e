"""The pid file, by which ``stop`` finds the server. Its place and form are TorchServe's."""

from __future__ import annotations

import os
import tempfile
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
    if process is not None and _began_after(process, file):  # its number was given to another server
        process = None
    if process is None:
        print("Removing orphan pid file.", flush=True)
        with suppress(OSError):  # another user's, or no file: who wants to write it will say so
            file.unlink(missing_ok=True)
    return process


def unregistered_servers() -> list[psutil.Process]:
    """All servers that can be seen, whoever registered them where: a second one in the same folder has no pid file, one
    that was started with another TMPDIR has it there, and so have those of other users and of containers."""
    import psutil

    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if _server(process.pid) and _serves(process.cmdline()):
                found[process.pid] = process
    parents = {}
    for process in found.values():
        with suppress(psutil.NoSuchProcess):
            parents[process] = process.ppid()
    return [process for process, parent in parents.items() if parent not in found]


def _serves(command_line: list[str]) -> bool:
    """Whether one of our commands, by its arguments, is one that serves."""
    names = [Path(argument).name for argument in command_line]
    place = next(index for index, name in enumerate(names) if name in _OUR_PROGRAMS)
    if names[place] == "torchserve":
        return not {"--stop", "-v", "--version", "-h", "--help"} & set(names[place:])
    return names[place + 1 : place + 2] in (["start"], ["llm"])


def description_of(server: psutil.Process) -> str:
    """For somebody who has to tell one from another."""
    import psutil

    words = server.cmdline()
    place = next((index for index, word in enumerate(words) if Path(word).name in _OUR_PROGRAMS), 0)
    command = " ".join([Path(words[place]).name, *words[place + 1 :]])
    try:
        whose = f"in {server.cwd()}" if is_ours(server) else f"of the user {server.username()}"
        return f"pid {server.pid}: {command} ({whose})"
    except psutil.Error:
        return f"pid {server.pid}: {command}"


def is_ours(server: psutil.Process) -> bool:
    """Whether this user may stop it."""
    import psutil

    with suppress(psutil.Error):
        return os.geteuid() in (0, server.uids().effective)
    return False


def tell_of(servers: list[psutil.Process]) -> str:
    """That no pid file names a server is not to say that none runs."""
    listed = "\n".join(f"  {description_of(server)}" for server in servers)
    how = (
        "Stop one with: torchserve-lite stop --pid PID" if any(map(is_ours, servers)) else "Their users can stop them."
    )
    return f"No server is registered in {pid_file()}, but on this machine there are:\n{listed}\n{how}"


def server_of_pid(pid: int) -> psutil.Process | None:
    return _server(pid)


def _began_after(process: psutil.Process, file: Path) -> bool:
    """Whether it cannot be who wrote the file. The start of a process is known to some hundredths of a second."""
    import psutil

    with suppress(OSError, psutil.Error):
        return process.create_time() > file.stat().st_mtime + 1
    return False


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


def forget(pid: int, file: Path | None = None) -> None:
    """Removes the pid file of this server, and of no other."""
    file = file or pid_file()
    if _pid_in(file) == pid:
        file.unlink(missing_ok=True)


@contextmanager
def named_in(file: Path) -> Iterator[tuple[str, ...]]:
    """As ``registered``, for the file that ``--pid-file`` names, which belongs to one server: it is an error that it
    cannot be written, or that another server runs by it. A reader finds the whole number in it, or no file."""
    if other := running_server(file):
        raise ConfigurationError(
            f"--pid-file {file} names a server that runs (pid {other.pid}). Stop that one, torchserve-lite stop "
            f"--pid-file {file}, or name another file."
        )
    try:
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f".{file.name}.", delete=False) as output:
            output.write(f"{os.getpid()}\n")
            os.fchmod(output.fileno(), 0o644)
        os.replace(output.name, file)
    except OSError as error:
        raise ConfigurationError(
            f"--pid-file {file} cannot be written: {error.strerror}. Name a file in a folder that exists and that this "
            "user may write."
        ) from error
    try:
        yield ()
    finally:
        with suppress(OSError):
            forget(os.getpid(), file)


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
        forget(os.getpid(), file)

"""Workers forked from a process that has imported torch already: ready in tens of milliseconds, sharing those pages.

That process is ``multiprocessing``'s fork server. It runs no torch operator, so it owns no thread pool that a fork
would break, and it is started before anything else because importing torch is the longest step of a start.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
from multiprocessing.process import BaseProcess

from torchserve_lite.engine.launchers.process import ChildHandle
from torchserve_lite.engine.launchers.worker_logs import LogPipe
from torchserve_lite.ipc.child import Descriptor, become_worker
from torchserve_lite.ipc.preloading import start_preloading
from torchserve_lite.ipc.stages import StageMarker


async def start_forked(link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe) -> ChildHandle:
    """In a thread, because the fork server answers only when its imports are done."""
    fds = [link.fileno(), stage.fd, stdout.write_end, stderr.write_end]
    child = await _finished_even_when_cancelled(asyncio.ensure_future(asyncio.to_thread(_fork, fds)))
    assert child.pid is not None
    return ChildHandle(child.pid, _exit_code(child))


async def _finished_even_when_cancelled(fork: asyncio.Future[BaseProcess]) -> BaseProcess:
    """The thread uses descriptors that the caller closes, so it must be through before a cancellation goes on."""
    try:
        return await asyncio.shield(fork)
    except asyncio.CancelledError:
        (await fork).kill()
        raise


def _fork(fds: list[int]) -> BaseProcess:
    start_preloading()
    make = multiprocessing.get_context("forkserver").Process
    child = make(target=become_worker, args=[Descriptor(fd) for fd in fds])
    child.start()
    return child


def _exit_code(child: BaseProcess) -> asyncio.Future[int]:
    loop = asyncio.get_running_loop()
    code: asyncio.Future[int] = loop.create_future()

    def ended() -> None:
        loop.remove_reader(child.sentinel)
        exit_code = child.exitcode
        child.close()
        if not code.done():
            code.set_result(255 if exit_code is None else exit_code)

    loop.add_reader(child.sentinel, ended)
    return code

"""Workers forked from a process that has imported torch already: ready in tens of milliseconds, sharing those pages.

That process is ``multiprocessing``'s fork server. It runs no torch operator, so it owns no thread pool that a fork
would break, and it is started before anything else because importing torch is the longest step of a start.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import socket
import threading
from contextlib import AbstractAsyncContextManager
from multiprocessing.process import BaseProcess

from torchserve_lite.core.models import ModelSpec
from torchserve_lite.engine.interface import Worker
from torchserve_lite.engine.launchers.child import ChildHandle
from torchserve_lite.engine.launchers.loading import ProcessSetup, loaded_worker
from torchserve_lite.engine.launchers.worker_logs import LogPipe
from torchserve_lite.engine.slot import Slot
from torchserve_lite.ipc.child import Descriptor, become_worker
from torchserve_lite.ipc.preloading import start_preloading
from torchserve_lite.ipc.stages import StageMarker


class ForkedLauncher:
    """A ``WorkerLauncher``."""

    def __init__(self, setup: ProcessSetup) -> None:
        self._setup = setup

    def __call__(self, spec: ModelSpec, slot: Slot) -> AbstractAsyncContextManager[Worker]:
        return loaded_worker(self._setup, spec, slot, _start)


async def _start(link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe) -> ChildHandle:
    child = await _Fork([link.fileno(), stage.fd, stdout.write_end, stderr.write_end]).child()
    assert child.pid is not None
    return ChildHandle(child.pid, _exit_code(child))


class _Fork:
    """Asks the fork server for a child, in a thread, because the server answers only when its imports are done.

    The thread has copies of the descriptors and outlives a caller that has given up; a child that it gets then is
    killed. A pool of threads would not do: one that never hears from the fork server would keep its place for ever.
    """

    def __init__(self, fds: list[int]) -> None:
        self._fds: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[BaseProcess] = self._loop.create_future()
        try:
            self._fds.extend(map(os.dup, fds))
        except OSError:
            self._close()
            raise

    async def child(self) -> BaseProcess:
        threading.Thread(target=self._ask, name="fork", daemon=True).start()
        try:
            return await self._result
        except asyncio.CancelledError:
            if self._result.done() and not self._result.cancelled() and self._result.exception() is None:
                _discard(self._result.result())  # it came in the moment in which the caller was cancelled
            raise

    def _ask(self) -> None:
        child: BaseProcess | None = None
        error: BaseException | None = None
        try:
            start_preloading()
            make = multiprocessing.get_context("forkserver").Process
            child = make(target=become_worker, args=[Descriptor(fd) for fd in self._fds])
            child.start()
        except BaseException as raised:
            error = raised
        finally:
            self._close()
        try:
            self._loop.call_soon_threadsafe(self._tell, child, error)
        except RuntimeError:  # the server has ended meanwhile
            _discard(child)

    def _tell(self, child: BaseProcess | None, error: BaseException | None) -> None:
        if self._result.done():  # the caller has been cancelled, or its time is up
            _discard(child)
        elif error is not None:
            self._result.set_exception(error)
        else:
            assert child is not None
            self._result.set_result(child)

    def _close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())


def _discard(child: BaseProcess | None) -> None:
    with contextlib.suppress(ValueError, OSError):  # it has not been started, or has gone already
        if child is not None:
            child.kill()
            child.join()
            child.close()


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

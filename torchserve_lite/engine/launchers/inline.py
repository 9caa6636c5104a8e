"""The handler in a thread of this process, for tests and for a debugger. A crash of it is a crash of ours."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial

from torchserve_lite.core.models import ModelSpec
from torchserve_lite.engine.interface import Worker
from torchserve_lite.engine.launchers.child import ChildHandle
from torchserve_lite.engine.launchers.loading import ProcessSetup, loaded_worker
from torchserve_lite.engine.launchers.worker_logs import LogPipe
from torchserve_lite.engine.slot import Slot
from torchserve_lite.ipc.child import WORKER_MODULE, exit_code_of
from torchserve_lite.ipc.slabs import slabs
from torchserve_lite.ipc.stages import StageMarker


class InlineLauncher:
    """A ``WorkerLauncher``."""

    def __init__(self, setup: ProcessSetup) -> None:
        self._setup = setup

    def __call__(self, spec: ModelSpec, slot: Slot) -> AbstractAsyncContextManager[Worker]:
        return self._worker(spec, slot)

    @asynccontextmanager
    async def _worker(self, spec: ModelSpec, slot: Slot) -> AsyncIterator[Worker]:
        # A thread cannot be ended, and must not write to a slab that is another request's by then.
        with slabs(0) as none:
            async with loaded_worker(replace(self._setup, slabs=none), spec, slot, partial(_start, none.fd)) as worker:
                yield worker


class _ThreadHandle(ChildHandle):
    def kill(self) -> None:
        """A thread cannot be killed; it ends at the end of its link."""


async def _start(
    slabs_fd: int, link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe
) -> ChildHandle:
    loop = asyncio.get_running_loop()
    code: asyncio.Future[int] = loop.create_future()
    ours, stage_fd, slabs_fd = link.dup(), os.dup(stage.fd), os.dup(slabs_fd)

    def work() -> None:
        worker = importlib.import_module(WORKER_MODULE)
        exit_code = exit_code_of(lambda: worker.run(ours, stage_fd, slabs_fd, own_process=False))
        ours.close()
        loop.call_soon_threadsafe(code.set_result, exit_code)

    threading.Thread(target=work, name="inline-worker", daemon=True).start()
    return _ThreadHandle(os.getpid(), code)

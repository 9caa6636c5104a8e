"""Workers forked from a process of their model that has loaded it: they share whatever they do not write to, so the
weights are in memory once, however they have been read.

That process (``worker/fork_server.py``) says whether what the handler has become can be forked. If not, it is a worker
like any other, and the model's other workers load it for themselves.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from torchserve_lite.core.models import ModelKey, ModelSpec
from torchserve_lite.engine.interface import Worker
from torchserve_lite.engine.launchers.child import ChildHandle
from torchserve_lite.engine.launchers.forked import ForkedLauncher
from torchserve_lite.engine.launchers.loading import ProcessSetup, loaded_worker
from torchserve_lite.engine.launchers.processes import Starter, processes
from torchserve_lite.engine.launchers.worker_logs import LogPipe
from torchserve_lite.engine.slot import Slot
from torchserve_lite.errors import ServingError
from torchserve_lite.ipc.stages import StageMarker

log = logging.getLogger(__name__)


class SharedLauncher:
    """A ``WorkerLauncher``. A worker on a GPU is forked as ever: it has its weights there."""

    def __init__(self, setup: ProcessSetup, forked: ForkedLauncher) -> None:
        self._setup = setup
        self._forked = forked
        self._models: dict[tuple[ModelKey, int], _SharedModel] = {}

    def __call__(self, spec: ModelSpec, slot: Slot) -> AbstractAsyncContextManager[Worker]:
        return self._worker(spec, slot) if slot.gpu_id is None else self._forked(spec, slot)

    @asynccontextmanager
    async def _worker(self, spec: ModelSpec, slot: Slot) -> AsyncIterator[Worker]:
        """The last worker of a model takes the fork server along."""
        key = spec.key, spec.generation
        model = self._models.setdefault(key, _SharedModel())
        model.workers += 1
        try:
            async with AsyncExitStack() as resources:
                yield await self._start(model, spec, slot, resources)
        finally:
            model.workers -= 1
            if not model.workers:
                if self._models.get(key) is model:
                    del self._models[key]
                await model.end_fork_server()

    async def _start(self, model: _SharedModel, spec: ModelSpec, slot: Slot, resources: AsyncExitStack) -> Worker:
        while not model.loaded_by_each:
            if model.fork_server is not None and processes().is_there(model.fork_server):
                return await resources.enter_async_context(self._fork(model.fork_server, spec, slot))
            if (loading := model.loading) is not None:  # another worker's start is at it
                await asyncio.wait([loading])
                if not loading.cancelled() and (error := loading.exception()) is not None:
                    raise error
                continue
            loading = model.loading = asyncio.get_running_loop().create_future()
            try:
                worker = await self._load(model, spec, slot, resources)
                loading.set_result(None)
            except ServingError as error:
                loading.set_exception(error)
                loading.exception()  # perhaps nobody waits for it
                raise
            finally:
                loading.cancel()
                model.loading = None
            if worker is not None:
                return worker
        return await resources.enter_async_context(self._forked(spec, slot))

    async def _load(self, model: _SharedModel, spec: ModelSpec, slot: Slot, resources: AsyncExitStack) -> Worker | None:
        """Starts the model's fork server. A process that cannot be one is returned: it is a worker."""
        await model.end_fork_server()  # one that was lost
        requests, theirs = socket.socketpair()
        requests.setblocking(False)
        async with AsyncExitStack() as taken:
            taken.callback(requests.close)
            with theirs:
                start = self._forked.starting(spec, forks=theirs)
                loaded = loaded_worker(self._setup, spec, slot, start, lambda: processes().forking_waits_for())
                process = await taken.enter_async_context(loaded)
            server = processes().fork_server(
                f"the process that workers of {spec.key} are forked from", requests, process.pid
            )
            if server.lost:
                processes().leave(server)
                model.loaded_by_each = True
                resources.push_async_exit(taken.pop_all())
                return process
            taken.callback(processes().leave, server)  # first: it ends by itself then, and is waited for
            model.fork_server, model.resources = server, taken.pop_all()
            log.info("Workers of %s are forked from process %s, which has loaded it.", spec.key, process.pid)
            return None

    def _fork(self, server: Starter, spec: ModelSpec, slot: Slot) -> AbstractAsyncContextManager[Worker]:
        async def start(link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe) -> ChildHandle:
            return await processes().fork(self._setup.descriptors(link, stage, stdout, stderr), of=server)

        return loaded_worker(self._setup, spec, slot, start, lambda: processes().waits_for(server))


class _SharedModel:
    """What the workers of one generation of a model have in common."""

    def __init__(self) -> None:
        self.workers = 0  # that run or are about to
        self.loading: asyncio.Future[None] | None = None
        self.fork_server: Starter | None = None
        self.resources = AsyncExitStack()  # of the fork server
        self.loaded_by_each = False

    async def end_fork_server(self) -> None:
        resources, self.resources, self.fork_server = self.resources, AsyncExitStack(), None
        await resources.aclose()

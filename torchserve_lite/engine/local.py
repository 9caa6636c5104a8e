"""The engine of one machine: a pool of worker processes for each model version."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from torchserve_lite.config.settings import WorkerConfig
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelKey, ModelSpec, ModelStatus
from torchserve_lite.engine.devices import Devices
from torchserve_lite.engine.interface import ModelLocator, Worker
from torchserve_lite.engine.launchers import starter
from torchserve_lite.engine.launchers.process import ProcessWorker
from torchserve_lite.engine.pool import PoolEvents, Slot, WorkerPool
from torchserve_lite.engine.restarts import Restarts
from torchserve_lite.errors import ModelLoading, ModelNotFound
from torchserve_lite.ipc.messages import Load

_FIRST_WORKER_ID = 9000  # TorchServe's worker ids were port numbers; scripts show them


class LocalEngine:
    """An ``Engine``. An async context manager: left, every batch has ended and every worker is gone.

    ``cores``: what all workers together may use. ``share_threads``: give each worker its share of them as torch's
    intra-op threads; off when the operator has set OMP_NUM_THREADS.
    """

    def __init__(
        self,
        config: WorkerConfig,
        locate: ModelLocator,
        devices: Devices,
        *,
        cores: int,
        share_threads: bool = True,
        events: PoolEvents | None = None,
        special_line: Callable[[str], bool] = lambda line: False,
    ) -> None:
        self._config = config
        self._locate = locate
        self._devices = devices
        self._cores = cores
        self._share_threads = share_threads
        self._events = events or PoolEvents()
        self._special_line = special_line
        self._pools: dict[ModelKey, tuple[WorkerPool, AsyncExitStack]] = {}
        self._worker_ids = itertools.count(_FIRST_WORKER_ID)

    async def __aenter__(self) -> LocalEngine:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for pool, _ in self._pools.values():
            pool.scale(0)  # all of them at once; unload then waits for each
        for key in list(self._pools):
            await self.unload(key)

    async def load(self, spec: ModelSpec, workers: int) -> None:
        self._devices.check(spec)
        stack = AsyncExitStack()
        pool = await stack.enter_async_context(WorkerPool(spec, self._launch, self._new_slot, self._events))
        if spec.key in self._pools:
            await self._replace(pool, stack, workers)
        else:
            self._pools[spec.key] = (pool, stack)
            await self.scale(spec.key, workers)

    async def _replace(self, pool: WorkerPool, stack: AsyncExitStack, workers: int) -> None:
        """The old pool serves until the new one can; jobs that wait then go over to the new one."""
        pool.scale(workers)
        try:
            await pool.until_scaled()
        except BaseException:
            await stack.aclose()
            raise
        old_pool, old_stack = self._pools[pool.spec.key]
        self._pools[pool.spec.key] = (pool, stack)
        old_pool.aggregator.move_to(pool.aggregator)
        await old_stack.aclose()

    async def scale(self, key: ModelKey, workers: int) -> None:
        pool = self._pool(key)
        pool.scale(workers)
        await pool.until_scaled()

    async def unload(self, key: ModelKey) -> None:
        _, stack = self._pools.pop(key)
        await stack.aclose()

    def submit(self, job: Job) -> None:
        if job.key not in self._pools:
            raise ModelLoading(job.key.name)
        self._pool(job.key).submit(job)

    def status(self, key: ModelKey) -> ModelStatus:
        if key not in self._pools:  # models are registered before they load, and listeners are open by then
            return ModelStatus(key=key, workers=(), wanted=0, queued=0, queue_size=0)
        return self._pool(key).status()

    def _pool(self, key: ModelKey) -> WorkerPool:
        try:
            return self._pools[key][0]
        except KeyError:
            raise ModelNotFound(key.name) from None

    def _new_slot(self, spec: ModelSpec) -> Slot:
        return Slot(str(next(self._worker_ids)), self._devices.assign(spec), Restarts(spec.recovery))

    @asynccontextmanager
    async def _launch(self, spec: ModelSpec, worker_id: str, gpu_id: int | None) -> AsyncIterator[Worker]:
        files = self._locate(spec)
        start = starter(spec.launcher or self._config.launcher, files.python or self._config.python)
        process = ProcessWorker(f"W-{worker_id}-{spec.key}", start, lambda: self._threads(spec), self._special_line)
        async with process as worker:
            await worker.load(self._load_message(spec, gpu_id, files.folder, files.python_path), spec.startup_timeout)
            yield worker

    def _load_message(self, spec: ModelSpec, gpu_id: int | None, folder: str, python_path: tuple[str, ...]) -> Load:
        config = self._config
        return Load(
            model_name=spec.key.name,
            model_version=spec.key.version,
            model_dir=folder,
            handler=spec.handler,
            manifest=None if spec.manifest is None else dict(spec.manifest),
            model_config=dict(spec.model_config),
            envelope=spec.envelope,
            batch_size=spec.batch.size,
            gpu_id=gpu_id,
            limit_max_image_pixels=config.limit_max_image_pixels,
            decode_input_request=config.decode_input_request,
            v2_output_names=config.v2_output_names,
            max_response_size=config.max_response_size,
            threads=self._threads(spec),
            python_path=python_path,
            hidden_environment=config.hidden_environment,
        )

    def _threads(self, spec: ModelSpec) -> int:
        """Intra-op threads for a worker of this model from now on; 0 leaves torch's own choice."""
        if spec.intra_op_threads is not None:
            return spec.intra_op_threads
        if not self._share_threads:
            return 0
        workers = sum(pool.wanted for pool, _ in self._pools.values())
        return max(1, self._cores // max(1, workers))

"""The engine of one machine: a pool of worker processes for each model version."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

from torchserve_lite.config.settings import WorkerConfig
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.memory import Memory, unfilled
from torchserve_lite.core.models import ModelKey, ModelSpec, ModelStatus
from torchserve_lite.core.requests import InferenceRequest
from torchserve_lite.core.shutdown import Shutdown
from torchserve_lite.engine.affinity import WorkerAffinity
from torchserve_lite.engine.devices import CoreShares, Devices
from torchserve_lite.engine.interface import EngineEvents, JobQueue, ModelLocator, WorkerLauncher
from torchserve_lite.engine.launchers import launcher
from torchserve_lite.engine.launchers.loading import ProcessSetup
from torchserve_lite.engine.pool import WorkerPool
from torchserve_lite.engine.queues.batches import BatchAggregator
from torchserve_lite.engine.queues.policies import ShareOfClients
from torchserve_lite.engine.queues.sequences import SequenceQueue
from torchserve_lite.engine.restarts import Restarts
from torchserve_lite.engine.slot import Slot
from torchserve_lite.engine.starts import Starts
from torchserve_lite.errors import DrainTimeout, LoadFailed, ModelLoading, ModelNotFound, ServingError
from torchserve_lite.ipc.slabs import Slabs

_STARTS_AT_ONCE = 8  # at least: some loads wait for a disk or a download most of the time
_LAST_MOMENT = 0.5  # seconds: the deadline may have passed, and idle workers need a moment to end by themselves


@dataclass(frozen=True, slots=True)
class _RunningPool:
    pool: WorkerPool
    task: asyncio.Task[None]

    async def close(self) -> None:
        self.pool.close()
        await asyncio.wait([self.task])  # cancelling whoever waits here must not cancel the pool


class LocalEngine:
    """An ``Engine``. An async context manager that owns every task below it. When it is left, batches end that somebody
    waits for, until the deadline of ``shutdown``; then every worker is gone.

    ``cores``: what all workers together may use. ``slabs``: for large payloads. ``share_threads``: give each worker its
    share of the cores as torch's intra-op threads; off when the operator has set OMP_NUM_THREADS. ``affinity`` binds
    workers to cores.
    """

    def __init__(
        self,
        config: WorkerConfig,
        locate: ModelLocator,
        devices: Devices,
        *,
        cores: int,
        slabs: Slabs,
        share_threads: bool = True,
        affinity: WorkerAffinity | None = None,
        events: EngineEvents | None = None,
        metric_line_parser: Callable[[str], bool] = lambda line: False,
        shutdown: Shutdown | None = None,
    ) -> None:
        self._devices = devices
        self._events = events or EngineEvents()
        self._core_shares = CoreShares(cores, share_threads)
        self._slabs = slabs
        setup = ProcessSetup(
            config=config,
            locate=locate,
            slabs=slabs,
            threads=self._core_shares,
            metric_line_parser=metric_line_parser,
        )
        self._affinity = affinity or WorkerAffinity(())
        self._launch: WorkerLauncher = Starts(launcher(setup), at_once=max(_STARTS_AT_ONCE, cores))
        self._shutdown = shutdown or Shutdown()
        self._tasks = asyncio.TaskGroup()
        self._running: set[_RunningPool] = set()  # those that are being replaced or closed among them
        self._pools: dict[ModelKey, _RunningPool] = {}
        self._worker_ids = itertools.count(config.first_worker_id)

    async def __aenter__(self) -> LocalEngine:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._shutdown.begin()
        for running in self._running:
            running.pool.close()
        if self._running:
            seconds = max(self._shutdown.remaining(), _LAST_MOMENT)
            await asyncio.wait([running.task for running in self._running], timeout=seconds)
        for running in self._running:
            running.pool.kill()
        await self._tasks.__aexit__(None, None, None)
        self._pools.clear()

    async def load(self, spec: ModelSpec, workers: int, warm_up: InferenceRequest | None = None) -> None:
        self._devices.check(spec)
        pool = WorkerPool(spec, _new_queue(spec), self._launch, self._new_slot, self._events, self._workers_changed)
        running = _RunningPool(pool, self._tasks.create_task(pool.run(), name=f"pool {spec.key}"))
        self._running.add(running)
        running.task.add_done_callback(lambda task: self._running.discard(running))
        try:
            await pool.opened()
        except BaseException:
            await running.close()
            raise
        if spec.key in self._pools:
            await self._replace(self._pools[spec.key], running, workers, warm_up)
            return
        self._pools[spec.key] = running
        await self.scale(spec.key, workers)
        if warm_up is not None and workers:
            await _answer(pool, warm_up)

    async def _replace(
        self, old: _RunningPool, new: _RunningPool, workers: int, warm_up: InferenceRequest | None
    ) -> None:
        """The old pool serves until the new one can; jobs that wait then go over to the new one."""
        asked = old.pool.wanted
        new.pool.scale(workers)
        try:
            await new.pool.until_scaled()
            while old.pool.wanted != asked:  # it has been scaled meanwhile
                asked = old.pool.wanted
                new.pool.scale(asked)
                await new.pool.until_scaled()
            if warm_up is not None and asked:
                await _answer(new.pool, warm_up)
        except BaseException:
            await new.close()
            raise
        self._pools[new.pool.spec.key] = new
        self._count_workers()
        old.pool.queue.move_to(new.pool.queue, new.pool.dispatch)
        await old.close()

    async def scale(self, key: ModelKey, workers: int) -> None:
        pool = self._pool(key)
        pool.scale(workers)
        self._count_workers()
        await pool.until_scaled()

    async def unload(self, key: ModelKey, grace: float) -> None:
        running = self._pools.pop(key)
        self._count_workers()
        running.pool.drain()
        leaving = {running, *(other for other in self._running if other.pool.spec.key == key)}  # some were replaced
        _, busy = await asyncio.wait([one.task for one in leaving], timeout=grace)
        if busy:
            for one in leaving:
                one.pool.close()
                one.pool.kill()
            await asyncio.wait(busy)
            raise DrainTimeout(key.name, grace)

    def memory_for(self, length: int) -> Memory:
        slab = self._slabs.new(length)
        return unfilled(length) if slab is None else slab

    def submit(self, job: Job) -> None:
        running = self._pools.get(job.key)
        if running is None:
            raise ModelLoading(job.key.name)
        running.pool.submit(job)

    def status(self, key: ModelKey) -> ModelStatus:
        if key not in self._pools:  # models are registered before they load, and listeners are open by then
            loading = str(ModelLoading(key.name))
            return ModelStatus(key=key, workers=(), wanted=0, queued=0, queue_size=0, begun=False, cause=loading)
        return self._pool(key).status()

    def _pool(self, key: ModelKey) -> WorkerPool:
        try:
            return self._pools[key].pool
        except KeyError:
            raise ModelNotFound(key.name) from None

    def _workers_changed(self) -> None:
        """Some worker is ready or has gone, or is to."""
        if not self._affinity.cores:
            return
        pools = [running.pool for running in self._running if running.pool.wanted or running.pool.ready_pids]
        alone = (
            len(pools) == 1 and pools[0].wanted == len(self._affinity.cores) and self._runs_on_one_core(pools[0].spec)
        )
        self._affinity.bind(pools[0].ready_pids if alone else ())

    def _runs_on_one_core(self, spec: ModelSpec) -> bool:
        on_gpu = self._devices.gpus > 0 and spec.device.type != "cpu"
        return self._core_shares(spec) == 1 and spec.lanes == 1 and not spec.parallel_type and not on_gpu

    def _count_workers(self) -> None:
        """Not for each batch: there may be hundreds of models."""
        self._core_shares.workers = sum(running.pool.wanted for running in self._pools.values())

    def _new_slot(self, spec: ModelSpec) -> Slot:
        return Slot(str(next(self._worker_ids)), self._devices.assign(spec), Restarts(spec.recovery))


async def _answer(pool: WorkerPool, request: InferenceRequest) -> None:
    """LoadFailed when the request is not answered, or with an error. It keeps no place among a model's sequences."""
    if pool.spec.sequences is not None:
        alone = (pool.spec.sequences.headers.end, "true")
        request = replace(request, headers=(*request.headers, alone), encoded_headers=b"")
    job = Job(request, pool.spec.key, asyncio.get_running_loop().time())
    try:
        pool.submit(job)
        response = await job.answer
    except ServingError as error:
        raise LoadFailed(f"Its sample request was not answered. {error}") from error
    except asyncio.CancelledError:
        job.abandon()
        raise
    if response.stream is not None:
        response.stream.close()
    if response.status >= 400:
        raise LoadFailed(f"Its sample request was answered with status {response.status}.")


def _new_queue(spec: ModelSpec) -> JobQueue:
    """A continuous handler's requests join it one by one, whenever there is a place: there are no batches to wait
    for."""
    batch = replace(spec.batch, size=1) if spec.continuous else spec.batch
    if spec.sequences is not None:
        return SequenceQueue(spec.key.name, batch.size, spec.sequences, lambda: ShareOfClients(batch))
    return BatchAggregator(spec.key.name, batch.size, spec.queue_size, ShareOfClients(batch))

"""The workers of one model version: slots that outlive their processes, restarts, scaling, draining."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from typing import cast

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelSpec, ModelStatus, WorkerState, WorkerStatus
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.engine.interface import Update, Worker, WorkerLauncher
from torchserve_lite.engine.queues.batches import BatchAggregator
from torchserve_lite.engine.restarts import Restarts
from torchserve_lite.errors import (
    LoadFailed,
    ModelFailed,
    NoWorkers,
    PredictionFailed,
    ResponseTimeout,
    WorkerDied,
    WorkerFailure,
)
from torchserve_lite.ipc.messages import Chunk, Reply, Result

log = logging.getLogger(__name__)


class PoolEvents:
    """What a pool reports while it works; the default ignores everything. Metrics and tests override it."""

    def batch_done(self, spec: ModelSpec, batch: Sequence[Job], result: Result, seconds: float) -> None: ...

    def worker_loaded(self, spec: ModelSpec, worker_id: str, seconds: float) -> None: ...

    def worker_failed(self, spec: ModelSpec, worker_id: str, error: WorkerFailure) -> None: ...


class Slot:
    """A worker's place in the pool."""

    def __init__(self, slot_id: str, gpu_id: int | None, restarts: Restarts) -> None:
        self.id = slot_id
        self.gpu_id = gpu_id
        self.restarts = restarts
        self.state = WorkerState.STARTING
        self.started = time.time()
        self.worker: Worker | None = None
        self.ready_since = 0.0
        self.failure: WorkerFailure | None = None
        self.retired = False
        self.task: asyncio.Task[None] | None = None
        self._idle: set[asyncio.Task[None]] = set()  # lanes that wait for a batch

    def retire(self) -> None:
        """Stop between batches. Anything but running a batch may be interrupted."""
        self.retired = True
        self.state = WorkerState.STOPPING
        if self.worker is None and self.task is not None:
            self.task.cancel()
        for lane in self._idle:
            lane.cancel()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """While the calling task waits for a batch."""
        lane = cast("asyncio.Task[None]", asyncio.current_task())
        self._idle.add(lane)
        try:
            yield
        finally:
            self._idle.discard(lane)

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            id=self.id,
            state=self.state,
            started=self.started,
            pid=self.worker.pid if self.worker is not None else None,
            gpu_id=self.gpu_id,
            failures=self.restarts.count,
            last_failure=str(self.failure or ""),
        )


class WorkerPool:
    """An async context manager: left, all batches have ended and all workers are gone."""

    def __init__(
        self,
        spec: ModelSpec,
        launch: WorkerLauncher,
        new_slot: Callable[[ModelSpec], Slot],
        events: PoolEvents,
    ) -> None:
        self.spec = spec
        self.aggregator = BatchAggregator(spec.key.name, spec.batch, spec.queue_size)
        self.wanted = 0
        self._launch = launch
        self._new_slot = new_slot
        self._events = events
        self._slots: list[Slot] = []
        self._tasks = asyncio.TaskGroup()
        self._watchers: set[asyncio.Future[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> WorkerPool:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.scale(0)
        await self._tasks.__aexit__(None, None, None)

    def submit(self, job: Job) -> None:
        if self._nobody_will_serve():
            self._refuse()
        self.aggregator.put(job)

    def scale(self, workers: int) -> None:
        """Starts or retires workers; the newest go first. A slot that has given up is replaced."""
        for slot in [slot for slot in self._slots if slot.state is WorkerState.FAILED]:
            self._slots.remove(slot)
        self.wanted = self.aggregator.workers = workers
        active = [slot for slot in self._slots if not slot.retired]
        for slot in active[workers:]:
            slot.retire()
        for _ in range(workers - len(active)):
            slot = self._new_slot(self.spec)
            self._slots.append(slot)
            slot.task = self._tasks.create_task(self._keep_serving(slot), name=f"worker {slot.id}")
            slot.task.add_done_callback(partial(self._ended, slot))  # also when it is cancelled before its first step
        if not workers:  # those that still run a batch take no other one
            self.aggregator.fail_all(NoWorkers(self.spec.key.name))
        self._changed()

    async def until_scaled(self) -> None:
        """Waits until the pool has what ``scale`` asked for; LoadFailed at the first load that fails meanwhile."""
        failures = {slot.id: slot.restarts.count for slot in self._slots}
        while not self._is_scaled():
            for slot in self._slots:
                hopeless = isinstance(slot.failure, LoadFailed) or slot.state is WorkerState.FAILED
                if hopeless and slot.failure is not None and slot.restarts.count > failures.get(slot.id, 0):
                    raise slot.failure
            await self._change()

    def status(self) -> ModelStatus:
        return ModelStatus(
            key=self.spec.key,
            workers=tuple(slot.status() for slot in self._slots),
            wanted=self.wanted,
            queued=len(self.aggregator),
            queue_size=self.aggregator.capacity,
            running=self.aggregator.running,
        )

    async def _keep_serving(self, slot: Slot) -> None:
        try:
            while not slot.retired and await self._live_once(slot):
                pass
        except asyncio.CancelledError:
            if not slot.retired:
                raise

    def _ended(self, slot: Slot, task: asyncio.Task[None]) -> None:
        if slot.retired:
            self._slots.remove(slot)
        self._changed()

    async def _live_once(self, slot: Slot) -> bool:
        """One process of this slot, from its start to its end. False when the slot has given up."""
        failure: WorkerFailure | None = None
        try:
            await self._live(slot)
        except* WorkerFailure as failures:
            failure = _first(failures)
        return failure is None or await self._wait_to_restart(slot, failure)

    async def _live(self, slot: Slot) -> None:
        begun = self._loop.time()
        async with self._launch(self.spec, slot.id, slot.gpu_id) as worker, asyncio.TaskGroup() as life:
            self._ready(slot, worker, self._loop.time() - begun)
            watcher = life.create_task(worker.watch())  # an idle worker's death must not cost the next job
            async with asyncio.TaskGroup() as lanes:
                for _ in range(self.spec.lanes):
                    lanes.create_task(self._serve(worker, slot))
            watcher.cancel()

    async def _serve(self, worker: Worker, slot: Slot) -> None:
        while not slot.retired:
            with slot.idle():
                batch = await self.aggregator.next_batch()
            await self._run(worker, slot, batch)

    async def _run(self, worker: Worker, slot: Slot, batch: list[Job]) -> None:
        begun = self._loop.time()
        for job in batch:
            job.on_settled = worker.cancel
        try:
            result = await self._collect(worker, batch)
            slot.restarts.proven()
            self._events.batch_done(self.spec, batch, result, self._loop.time() - begun)
        finally:
            self.aggregator.finished(batch)
            if unanswered := [job for job in batch if job.wanted]:
                self._settle(worker, unanswered)  # no job leaves unanswered, whatever happened above

    def _settle(self, worker: Worker, jobs: list[Job]) -> None:
        """What becomes of the jobs of a worker that has died: those it never took up wait for the next one."""
        if self.wanted and all(worker.never_began(job) for job in jobs):
            self.aggregator.put_back(jobs)
            return
        for job in jobs:
            job.fail(worker.death or WorkerDied("It was stopped."))

    async def _collect(self, worker: Worker, batch: list[Job]) -> Result:
        async with aclosing(worker.predict(batch)) as updates:
            while isinstance(update := await self._next_update(updates, batch), Chunk):
                batch[update.index].add_chunk(_response(update.reply))
        for job, reply in zip(batch, update.replies, strict=True):
            job.on_settled = None
            _answer(job, reply)
        return update

    async def _next_update(self, updates: AsyncGenerator[Update, None], batch: list[Job]) -> Update:
        timeout = self.spec.response_timeout
        try:
            async with asyncio.timeout(timeout):
                return await anext(updates)
        except TimeoutError:
            hung = ResponseTimeout(timeout)
            for job in batch:
                job.fail(hung)
            raise hung from None

    def _ready(self, slot: Slot, worker: Worker, seconds: float) -> None:
        slot.worker = worker
        slot.state = WorkerState.STOPPING if slot.retired else WorkerState.READY
        slot.started = time.time()
        slot.ready_since = self._loop.time()
        slot.failure = None
        self._events.worker_loaded(self.spec, slot.id, seconds)
        log.info("%s is ready (pid %s, loaded in %.2f s)", self._name(slot), worker.pid, seconds)
        self._changed()

    async def _wait_to_restart(self, slot: Slot, error: WorkerFailure) -> bool:
        """False when the slot has given up, or is wanted no more."""
        lived = self._loop.time() - slot.ready_since if slot.worker is not None else 0.0
        slot.worker = None
        slot.failure = error
        delay = None if slot.retired else slot.restarts.failed(self._loop.time(), lived)
        self._report(slot, error, delay)
        self._events.worker_failed(self.spec, slot.id, error)
        if delay is None:
            self._give_up(slot, error)
            return False
        slot.state = WorkerState.RESTARTING if lived else WorkerState.STARTING
        self._changed()
        await asyncio.sleep(delay)
        return True

    def _report(self, slot: Slot, error: WorkerFailure, delay: float | None) -> None:
        if isinstance(error, LoadFailed) and error.traceback:
            log.error("%s could not load its model:\n%s", self._name(slot), error.traceback)
        then = "it is not tried again" if delay is None else f"next attempt in {delay:g} s"
        log.error("%s failed: %s %s (failure %d)", self._name(slot), error, then, slot.restarts.count)

    def _give_up(self, slot: Slot, error: WorkerFailure) -> None:
        if not slot.retired:
            slot.state = WorkerState.FAILED
        if self._nobody_will_serve():
            self.aggregator.fail_all(ModelFailed(self.spec.key.name, str(error)))

    def _nobody_will_serve(self) -> bool:
        return all(slot.retired or slot.state is WorkerState.FAILED for slot in self._slots)

    def _refuse(self) -> None:
        for slot in self._slots:
            if slot.state is WorkerState.FAILED:
                raise ModelFailed(self.spec.key.name, str(slot.failure))
        raise NoWorkers(self.spec.key.name)

    def _is_scaled(self) -> bool:
        active = [slot for slot in self._slots if not slot.retired]
        return len(self._slots) == len(active) == self.wanted and all(s.state is WorkerState.READY for s in active)

    def _name(self, slot: Slot) -> str:
        return f"W-{slot.id}-{self.spec.key}"

    async def _change(self) -> None:
        news: asyncio.Future[None] = self._loop.create_future()
        self._watchers.add(news)
        try:
            await news
        finally:
            self._watchers.discard(news)

    def _changed(self) -> None:
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)


def _answer(job: Job, reply: Reply) -> None:
    if reply.failed:
        job.fail(PredictionFailed(reply.body.decode(), reply.status, from_handler=reply.from_handler))
    else:
        job.succeed(_response(reply))


def _response(reply: Reply) -> InferenceResponse:
    return InferenceResponse(reply.body, reply.status, reply.reason, reply.content_type, reply.headers)


def _first(group: BaseExceptionGroup[WorkerFailure]) -> WorkerFailure:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error

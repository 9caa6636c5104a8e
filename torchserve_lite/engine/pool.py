"""The workers of one model version: slots that outlive their processes, restarts, scaling, draining."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import partial

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelSpec, ModelStatus, WorkerState
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.engine.interface import EngineEvents, JobQueue, Worker, WorkerLauncher
from torchserve_lite.engine.slot import Slot
from torchserve_lite.errors import (
    AnswerTooLarge,
    DeadlineExceeded,
    HandlerError,
    InvalidInput,
    LoadFailed,
    ModelFailed,
    NoWorkers,
    OutOfMemory,
    PredictionFailed,
    ResponseTimeout,
    ServingError,
    SlotFailed,
    WorkerDied,
    WorkerFailure,
    WorkerRestarting,
)
from torchserve_lite.ipc.messages import FailureKind, Reply

log = logging.getLogger(__name__)


class WorkerPool:
    """``run`` is the pool's own task, in which its slots live until ``close`` has been called and all are gone."""

    def __init__(
        self,
        spec: ModelSpec,
        queue: JobQueue,
        launch: WorkerLauncher,
        new_slot: Callable[[ModelSpec], Slot],
        events: EngineEvents,
    ) -> None:
        self.spec = spec
        self.queue = queue
        self.wanted = 0
        self._launch = launch
        self._new_slot = new_slot
        self._events = events
        self._slots: list[Slot] = []
        self._tasks = asyncio.TaskGroup()  # entered by ``run``
        self._opened = asyncio.Event()
        self._closing = asyncio.Event()
        self._watchers: set[asyncio.Future[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        async with self._tasks:
            self._opened.set()
            await self._closing.wait()

    async def opened(self) -> None:
        """Waits until ``run`` has begun, and slots can be made."""
        await self._opened.wait()

    def close(self) -> None:
        """Retires all slots; ``run`` ends when their batches have."""
        self.scale(0)
        self._closing.set()

    def submit(self, job: Job) -> None:
        if not any(slot.promising for slot in self._slots):
            raise self._refusal()
        self.queue.put(job)

    def scale(self, workers: int) -> None:
        """Starts or retires workers; the newest go first. A slot that has given up is replaced."""
        for slot in [slot for slot in self._slots if slot.state is WorkerState.FAILED]:
            self._slots.remove(slot)
        self.wanted = self.queue.workers = workers
        active = [slot for slot in self._slots if not slot.retired]
        for slot in active[workers:]:
            slot.retire()
        for _ in range(workers - len(active)):
            slot = self._new_slot(self.spec)
            self._slots.append(slot)
            slot.task = self._tasks.create_task(self._supervise(slot), name=f"worker {slot.id}")
            slot.task.add_done_callback(partial(self._slot_ended, slot))  # also when cancelled before its first step
        if not workers:  # those that still run a batch take no other one
            self.queue.fail_all(NoWorkers(self.spec.key.name))
        self._changed()

    async def until_scaled(self) -> None:
        """Waits until the pool has what ``scale`` asked for; WorkerFailure at the first start that fails meanwhile."""
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
            queued=len(self.queue),
            queue_size=self.queue.capacity,
            running=self.queue.running,
            cause="" if any(slot.promising for slot in self._slots) else str(self._refusal()),
        )

    async def _supervise(self, slot: Slot) -> None:
        """The slot's task: one worker after another, until the slot is retired or has given up.

        Whatever goes wrong in our own code ends here, as a slot that has failed: its jobs are answered, the other slots
        go on, and the next scaling puts a new slot in its place.
        """
        try:
            while not slot.retired:
                failure = await self._live_once(slot)
                if failure is None or not await self._wait_to_restart(slot, failure):
                    return
        except asyncio.CancelledError:
            if not slot.retired:
                raise
        except Exception as error:
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            log.error("The code around worker %s failed", self._name(slot), exc_info=error)
            slot.worker = None
            slot.restarts.count += 1
            self._give_up(slot, SlotFailed(error))

    def _slot_ended(self, slot: Slot, task: asyncio.Task[None]) -> None:
        if slot.retired and slot in self._slots:
            self._slots.remove(slot)
        self._changed()

    async def _live_once(self, slot: Slot) -> WorkerFailure | None:
        """One worker of this slot, from its start to its end; None when it ended because the slot was retired."""
        begun = self._loop.time()
        failure: WorkerFailure | None = None
        try:
            async with self._launch(self.spec, slot) as worker, asyncio.TaskGroup() as life:
                self._ready(slot, worker, self._loop.time() - begun)
                watcher = life.create_task(worker.watch())  # an idle worker's death must not cost the next job
                async with asyncio.TaskGroup() as lanes:
                    for _ in range(self.spec.lanes):
                        lanes.create_task(self._serve(worker, slot))
                watcher.cancel()
        except* WorkerFailure as failures:
            first: BaseException = failures
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            assert isinstance(first, WorkerFailure)
            failure = first
        return failure

    def _ready(self, slot: Slot, worker: Worker, seconds: float) -> None:
        slot.worker = worker
        slot.state = WorkerState.STOPPING if slot.retired else WorkerState.READY
        slot.started = time.time()
        slot.ready_since = self._loop.time()
        slot.failure = None
        self._events.worker_loaded(self.spec, slot.id, seconds)
        log.info("%s is ready (pid %s, loaded in %.2f s)", self._name(slot), worker.pid, seconds)
        self._changed()

    async def _serve(self, worker: Worker, slot: Slot) -> None:
        while not slot.retired:
            with slot.idle():
                batch = await self.queue.next_batch(slot)
            await self._run(worker, slot, batch)

    async def _run(self, worker: Worker, slot: Slot, batch: Sequence[Job]) -> None:
        """One batch: every way in which it can end."""
        begun = self._loop.time()
        for job in batch:
            job.holder = worker
        try:
            async with aclosing(worker.predict(batch)) as updates:
                while True:
                    async with asyncio.timeout(self.spec.response_timeout):
                        update = await anext(updates)
                    for answer in update.answers:
                        _give(batch[answer.index], answer.reply, last=answer.last)
                    if update.done is not None:
                        break
                    for job in batch:
                        await job.room()  # a reader that is slow makes the handler wait
            slot.restarts.proven()
            self._events.batch_done(self.spec, batch, update.done, self._loop.time() - begun)
        except TimeoutError:
            hung = ResponseTimeout(self.spec.response_timeout)
            for job in batch:
                job.fail(hung)
            raise hung from None
        finally:
            for job in batch:
                self.queue.finished(job)
            self._settle(worker, [job for job in batch if job.wanted])

    def _settle(self, worker: Worker, jobs: Sequence[Job]) -> None:
        """No job leaves unanswered: those that a dead worker never took up wait for the next one."""
        if jobs and self.wanted and all(worker.never_began(job) for job in jobs):
            self.queue.put_back(jobs)
            return
        for job in jobs:
            job.fail(worker.death or WorkerDied("It was stopped."))

    async def _wait_to_restart(self, slot: Slot, error: WorkerFailure) -> bool:
        """False when the slot has given up, or is wanted no more."""
        lived = self._loop.time() - slot.ready_since if slot.worker is not None else 0.0
        slot.worker = None
        known = str(slot.failure) == str(error)
        slot.failure = error
        delay = None if slot.retired else slot.restarts.failed(self._loop.time(), lived)
        if isinstance(error, LoadFailed) and error.traceback and not known:  # the same failure once in full
            log.error("%s could not load its model:\n%s", self._name(slot), error.traceback)
        then = "it is not tried again" if delay is None else f"next attempt in {delay:g} s"
        log.error("%s failed: %s %s (failure %d)", self._name(slot), error, then, slot.restarts.count)
        self._events.worker_failed(self.spec, slot.id, error)
        if delay is None:
            self._give_up(slot, error)
            return False
        slot.state = WorkerState.RESTARTING if lived else WorkerState.STARTING
        self._refuse_waiting_jobs()
        await asyncio.sleep(delay)
        return True

    def _give_up(self, slot: Slot, error: WorkerFailure) -> None:
        slot.failure = error
        if not slot.retired:
            slot.state = WorkerState.FAILED
        self._refuse_waiting_jobs()

    def _refuse_waiting_jobs(self) -> None:
        if not any(slot.promising for slot in self._slots):
            self.queue.fail_all(self._refusal())
        self._changed()

    def _refusal(self) -> ServingError:
        """Why a job cannot wait here, when no slot is promising."""
        name = self.spec.key.name
        failed = [slot for slot in self._slots if not slot.retired and slot.failure is not None]
        if not failed:
            return NoWorkers(name)
        trying = [slot for slot in failed if slot.state is not WorkerState.FAILED]
        return WorkerRestarting(name, str(trying[0].failure)) if trying else ModelFailed(name, str(failed[0].failure))

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


def _give(job: Job, reply: Reply, *, last: bool) -> None:
    """Hands an answer, a piece of one, or the failure in its place to the job."""
    body = reply.body
    assert not isinstance(body, int)
    if reply.failure:
        job.fail(_error_of(reply.failure, bytes(body).decode("utf-8", "replace"), reply.status))
        return
    response = InferenceResponse(body, reply.status, reply.reason, reply.content_type, reply.headers)
    if last:
        job.succeed(response)
    else:
        job.add_piece(response)


def _error_of(kind: str, message: str, code: int) -> ServingError:
    """``kind``: a FailureKind; one that a newer worker may have made up counts as the handler's failure."""
    if kind == FailureKind.CODE:
        return HandlerError(message, code)
    if kind == FailureKind.DEADLINE:
        return DeadlineExceeded()
    classes: dict[str, type[ServingError]] = {
        FailureKind.REFUSED: InvalidInput,
        FailureKind.MEMORY: OutOfMemory,
        FailureKind.TOO_LARGE: AnswerTooLarge,
    }
    return classes.get(kind, PredictionFailed)(message)

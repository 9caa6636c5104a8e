"""The workers of one model version and the queue they take from: jobs in, batches out, one answer to each job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelSpec, ModelStatus
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.engine.failures import failure_of
from torchserve_lite.engine.interface import EngineEvents, JobQueue, Worker, WorkerLauncher
from torchserve_lite.engine.slot import Slot
from torchserve_lite.engine.supervisor import Supervisor
from torchserve_lite.errors import ResponseTimeout, WorkerDied
from torchserve_lite.ipc.messages import Reply


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
        self._events = events
        self._supervisor = Supervisor(spec, launch, new_slot, events, self._serve, self._slots_changed)
        self.run = self._supervisor.run  # the supervisor's verbs for starting and scaling are the pool's, too
        self.opened = self._supervisor.opened
        self.until_scaled = self._supervisor.until_scaled
        self._loop = asyncio.get_running_loop()

    @property
    def wanted(self) -> int:
        """How many workers it has been scaled to."""
        return self._supervisor.wanted

    def scale(self, workers: int) -> None:
        """Starts or retires workers; ``until_scaled`` waits for it to be done."""
        self.queue.workers = workers
        self._supervisor.scale(workers)

    def close(self) -> None:
        """Retires all workers; ``run`` ends when their batches have."""
        self.scale(0)
        self._supervisor.close()

    def kill(self) -> None:
        """After ``close``: the workers that are left are not waited for."""
        self._supervisor.kill()

    def submit(self, job: Job) -> None:
        if not self._supervisor.promising:
            raise self._supervisor.refusal()
        self.queue.put(job)

    def status(self) -> ModelStatus:
        return ModelStatus(
            key=self.spec.key,
            workers=self._supervisor.workers(),
            wanted=self.wanted,
            queued=len(self.queue),
            queue_size=self.queue.capacity,
            running=self.queue.running,
            cause="" if self._supervisor.promising else str(self._supervisor.refusal()),
        )

    def _slots_changed(self) -> None:
        if not self._supervisor.promising:  # a worker that still runs a batch takes no other one
            self.queue.fail_all(self._supervisor.refusal())

    async def _serve(self, worker: Worker, slot: Slot) -> None:
        while not slot.retired:
            with slot.idle():
                batch = await self.queue.next_batch(slot)
            await self._run(worker, slot, batch)

    async def _run(self, worker: Worker, slot: Slot, batch: Sequence[Job]) -> None:
        """One batch: every way in which it can end."""
        begun = self._loop.time()
        for job in batch:
            job.holder = slot
        slot.running.update(batch)
        try:
            async with aclosing(worker.predict(batch)) as updates:
                while True:
                    async with asyncio.timeout(self.spec.response_timeout):
                        update = await anext(updates)
                    for answer in update.answers:
                        if answer.last:
                            slot.running.discard(batch[answer.index])
                        _give(batch[answer.index], answer.reply, last=answer.last)
                    if update.done is not None:
                        break
                    for job in batch:
                        await job.room()  # a reader that is slow makes the handler wait
            slot.restarts.proven()
            self._events.batch_done(self.spec, batch, update.done, self._loop.time() - begun)
        except TimeoutError:
            hung = ResponseTimeout(self.spec.response_timeout, worker.doing())
            for job in batch:
                job.fail(hung)
            raise hung from None
        finally:
            slot.running.difference_update(batch)
            for job in batch:
                self.queue.finished(job)
            self._settle(worker, [job for job in batch if job.wanted])

    def _settle(self, worker: Worker, jobs: Sequence[Job]) -> None:
        """No job leaves unanswered. Those that a dead worker never took up wait for the next one, but once only: it may
        be of them that it died, and the next one would, too."""
        if jobs and self.wanted and all(worker.never_began(job) and not job.put_back for job in jobs):
            for job in jobs:
                job.put_back = True
            self.queue.put_back(jobs)
            return
        for job in jobs:
            job.fail(worker.death or WorkerDied("It was stopped."))


def _give(job: Job, reply: Reply, *, last: bool) -> None:
    """Hands an answer, a piece of one, or the failure in its place to the job."""
    body = reply.body
    assert not isinstance(body, int)
    if reply.failure:
        job.fail(failure_of(reply))
        return
    response = InferenceResponse(body, reply.status, reply.reason, reply.content_type, reply.headers)
    if last:
        job.succeed(response)
    else:
        job.add_piece(response)

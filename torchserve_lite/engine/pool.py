"""The workers of one model version and the queue they take from: jobs in, batches out, one answer to each job."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Sequence

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelSpec, ModelStatus
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.engine.failures import failure_of
from torchserve_lite.engine.interface import EngineEvents, JobQueue, Worker, WorkerLauncher
from torchserve_lite.engine.seats import RunningBatch, Seat
from torchserve_lite.engine.slot import Slot
from torchserve_lite.engine.supervisor import Supervisor
from torchserve_lite.errors import NoIdleWorker, QueueFull, WorkerDied
from torchserve_lite.ipc.messages import Answers


class WorkerPool:
    """``run`` is the pool's own task, in which its slots live until ``close`` has been called and all are gone."""

    def __init__(
        self,
        spec: ModelSpec,
        queue: JobQueue,
        launch: WorkerLauncher,
        new_slot: Callable[[ModelSpec], Slot],
        events: EngineEvents,
        workers_changed: Callable[[], None] = lambda: None,
    ) -> None:
        """``workers_changed`` is told when a worker has become ready, has gone, or is to go."""
        self.spec = spec
        self.queue = queue
        self._events = events
        self._supervisor = Supervisor(
            spec, launch, new_slot, events, self._serve, self._answer_what_is_left, self._slots_changed
        )
        self.run = self._supervisor.run  # the supervisor's verbs for starting and scaling are the pool's, too
        self.opened = self._supervisor.opened
        self.until_scaled = self._supervisor.until_scaled
        self._workers_changed = workers_changed
        self._loop = asyncio.get_running_loop()
        self._seats: list[Seat] = []  # of the workers that are ready
        self._busy_seconds = 0.0  # of batches that have ended
        self._most_in_workers = 0  # how many jobs may wait there at most
        self._dispatching = False
        self._dispatch_soon = False
        self._draining = False
        self._job_tickets = spec.job_tickets
        self._refused = 0  # since none may wait
        self._due: asyncio.TimerHandle | None = None  # dispatches when the next batch is due, which is at
        self._due_at = 0.0  # by the event loop's clock

    @property
    def wanted(self) -> int:
        """How many workers it has been scaled to."""
        return self._supervisor.wanted

    @property
    def ready_pids(self) -> tuple[int, ...]:
        """Of the workers that are processes and take batches."""
        return tuple([seat.worker.pid for seat in self._seats if seat.worker.pid not in (None, os.getpid())])

    def scale(self, workers: int) -> None:
        """Starts or retires workers; ``until_scaled`` waits for it to be done."""
        self.queue.workers = workers
        self._supervisor.scale(workers)
        for seat in self._seats:
            if seat.slot.retired:
                self.queue.worker_left(seat.slot)
        self.dispatch()  # each has another share of the clients now

    def close(self) -> None:
        """Retires all workers; ``run`` ends when their batches have. Jobs that wait are told that there is none."""
        self.scale(0)
        self._supervisor.close()

    def drain(self) -> None:
        """As ``close``, but what waits is run first. For a pool that is given no more jobs."""
        self._draining = True
        self.dispatch()

    def kill(self) -> None:
        """After ``close``: the workers that are left are not waited for."""
        self._supervisor.kill()

    def submit(self, job: Job) -> None:
        if not self._supervisor.promising:
            raise self._supervisor.refusal()
        if self._job_tickets and len(self.queue) >= sum(seat.free for seat in self._seats) * self.queue.batch_size:
            self._refused += 1
            raise NoIdleWorker(self.spec.key.name)
        room = self.queue.capacity - len(self.queue)
        if room <= self._most_in_workers and (waiting := len(self._waiting_in_workers())) and room <= waiting:
            raise QueueFull(self.spec.key.name, self.queue.capacity)
        if self.queue.put(job):
            self.dispatch()
        elif not self._dispatch_soon:  # once for all jobs that arrive together
            self._dispatch_soon = True
            self._loop.call_soon(self.dispatch)

    def _waiting_in_workers(self) -> Sequence[Job]:
        """They have left the queue, but to clients and operators they wait as those in it do."""
        return [job for seat in self._seats for batch in seat.waiting for job in batch.jobs if job.wanted]

    def status(self) -> ModelStatus:
        waiting = len(self._waiting_in_workers())
        return ModelStatus(
            key=self.spec.key,
            workers=self._supervisor.workers(),
            wanted=self.wanted,
            queued=len(self.queue) + waiting,
            queue_size=self.queue.capacity,
            running=self.queue.running - waiting,
            refused=self._refused,
            busy=sum(bool(seat.batches) and not seat.is_idle for seat in self._seats),
            busy_seconds=self._busy_seconds + self._seconds_of_running_batches(),
            cause="" if self._supervisor.promising else str(self._supervisor.refusal()),
        )

    def _seconds_of_running_batches(self) -> float:
        now = self._loop.time()
        return sum(now - batch.begun for seat in self._seats for batch in seat.batches if batch not in seat.waiting)

    def dispatch(self) -> None:
        """Brings what waits to the seats: a batch that is due to one whose worker is idle, then full ones to those that
        may have another. Called whenever something has changed that this depends on, and when a batch is due."""
        if self._dispatching:  # a job that has expired was answered from here, and its client sent the next one
            return
        self._dispatching, self._dispatch_soon = True, False
        try:
            while len(self.queue) and (idle := [seat for seat in self._seats if seat.is_idle]):
                seat = self._next_of_sequences(idle) if self.queue.by_sequence else min(idle, key=_load)
                due = self.queue.due(seat.slot)
                if due > self._loop.time():
                    self._dispatch_at(due)
                    return
                self._run_next_batch(seat)
            others = [seat for seat in self._seats if seat.may_have_another]
            if len(others) <= self.queue.full_batches:  # else a worker that is idle sooner might have had it
                for seat in others:
                    self._run_next_batch(seat)
        finally:
            self._dispatching = False
        if self._draining and not len(self.queue):
            self._draining = False
            self.close()

    def _next_of_sequences(self, idle: Sequence[Seat]) -> Seat:
        """Where a batch is due, else where one will be first. What waits may wait for one worker alone."""
        now = self._loop.time()
        return min(idle, key=lambda seat: (max(now, self.queue.due(seat.slot)), _load(seat)))

    def _run_next_batch(self, seat: Seat) -> None:
        self._seats.remove(seat)  # its turn comes again after all others'
        self._seats.append(seat)
        if len(self.queue) and (batch := self.queue.next_batch(seat.slot)):
            seat.run(batch, self.queue.release)

    def _dispatch_at(self, due: float) -> None:
        """A timer that runs out too early costs one look; to set it anew for each job would cost more."""
        if due == math.inf:  # what waits can go to none of the workers that are idle
            return
        if self._due is not None and self._due_at > due:
            self._due.cancel()
            self._due = None
        if self._due is None:
            self._due_at = due  # not asked of the timer: uvloop's is none when it runs out within a millisecond
            self._due = self._loop.call_at(due, self._dispatch_when_due)

    def _dispatch_when_due(self) -> None:
        self._due = None
        self.dispatch()

    def _slots_changed(self) -> None:
        if not self._supervisor.promising:  # a worker that still runs a batch takes no other one
            self.queue.fail_all(self._supervisor.refusal())
            self.dispatch()
        self._workers_changed()

    async def _serve(self, worker: Worker, slot: Slot) -> None:
        """From a worker's being ready until it is to go."""
        seat = slot.seat = Seat(worker, slot, self.spec, self._answered, self._events)
        if slot.retired:
            seat.retire()
        else:
            self.queue.worker_came(slot)
        self._seats.append(seat)
        self._seats_changed()
        self.dispatch()
        try:
            await seat.left
        finally:
            self._seats.remove(seat)
            self.queue.worker_left(slot)
            self._seats_changed()
            self.dispatch()  # what was to wait for it goes to others

    def _seats_changed(self) -> None:
        self._most_in_workers = len(self._seats) * self.spec.batch.size
        self._workers_changed()

    def _answered(self, seat: Seat, batch: RunningBatch, update: Answers) -> None:
        """Answers from a worker. At the end of its batch the next one is sent before they are handed on: to write them
        all takes longer than the worker should stand still."""
        if self.queue.by_sequence:
            self.queue.replied(update.answers)
        if update.done is not None:
            for job in batch.jobs:
                job.report = update.done
            self.queue.finished(batch.jobs)
            self.dispatch()
        for answer in update.answers:
            job, reply = batch.jobs[answer.index], answer.reply
            if answer.last:
                job.holder = None  # who knows that this one has ended
            if reply.failure:
                job.fail(failure_of(reply))
                continue
            assert not isinstance(reply.body, int)
            response = InferenceResponse(reply.body, reply.status, reply.reason, reply.content_type, reply.headers)
            if answer.last:
                job.succeed(response)
            else:
                job.add_piece(response)
        if update.done is not None:
            seat.slot.restarts.proven()
            seconds = self._loop.time() - batch.begun
            self._busy_seconds += seconds
            self._events.batch_done(self.spec, batch.jobs, update.done, seconds, batch.release)

    def _answer_what_is_left(self, slot: Slot) -> None:
        """Its worker is gone. No job leaves unanswered: those that a dead worker never took up wait for the next one,
        but once only, for it may be of them that it died, and the next one would, too."""
        seat, slot.seat = slot.seat, None
        if seat is None:
            return
        worker = seat.worker
        cause = worker.death or WorkerDied("It was stopped.")
        if seat.was_hung:
            limit = f"responseTimeout={self.spec.response_timeout:g} s"
            cause = WorkerDied(f"It was stopped for another request, to which it gave no answer within {limit}.")
        seat.close()
        for batch in reversed(seat.batches):  # what is put back comes before what was put back already
            self.queue.finished(batch.jobs)
            jobs = [job for job in batch.jobs if job.wanted]
            if self.wanted and all(worker.never_began(job) and not job.put_back for job in jobs):
                for job in jobs:
                    job.put_back = True
                self.queue.put_back(jobs)
            else:
                for job in jobs:
                    job.fail(cause)
            batch.jobs.clear()  # the failure is remembered, its traceback knows them, and they hold what clients sent
        self.dispatch()


def _load(seat: Seat) -> int:
    return len(seat.batches)

"""A ready worker's seat in its pool: the batches that it has, in the order in which they were sent, and the watch over
them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelSpec
from torchserve_lite.engine.interface import EngineEvents, Release, Worker
from torchserve_lite.engine.slot import Slot
from torchserve_lite.errors import ReaderTooSlow, ResponseTimeout
from torchserve_lite.ipc.messages import Answers

_BATCHES = 2  # that a worker has which runs one at a time: the second waits in it, so that it need not wait for us
_SHORT = 0.05  # seconds: only behind batches that take no longer may another one wait, since it cannot be had back


class RunningBatch:
    """``release``: why it went. ``begun`` and ``since`` are readings of the event loop's clock: when it was sent, and
    from when on its worker owes a word about it."""

    __slots__ = ("begun", "jobs", "release", "since")

    def __init__(self, jobs: Sequence[Job], release: Release, now: float) -> None:
        self.jobs = list(jobs)
        self.release = release
        self.begun = now
        self.since = now


class Seat:
    """Of one worker, while it lives. ``left`` is settled when it is to be left: its worker is retired and has no batch
    any more (cancelled: those that it has are nobody's), or it failed (ResponseTimeout, or what our own code raised).

    A worker of a coroutine handler runs ``spec.lanes`` batches concurrently. Any other runs one, and a second may wait
    in it: a worker that waits for the front process between two batches stands still.
    """

    def __init__(
        self,
        worker: Worker,
        slot: Slot,
        spec: ModelSpec,
        answered: Callable[[Seat, RunningBatch, Answers], None],
        events: EngineEvents,
    ) -> None:
        self.worker = worker
        self.slot = slot
        self.batches: list[RunningBatch] = []
        self._loop = asyncio.get_running_loop()
        self.left: asyncio.Future[None] = self._loop.create_future()
        self._retired = False
        self._spec = spec
        self._events = events
        self._lanes = spec.lanes
        self._timeout = spec.response_timeout
        self._answered = answered
        self._last_took = math.inf  # seconds, of its last batch
        self._behind: set[Job] = set()  # whose readers do not keep up with what is streamed to them
        self._watchdog: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """A batch that is sent now would be run at once."""
        return len(self.batches) < self._lanes and not self.left.done() and not self._retired

    @property
    def free(self) -> int:
        """How many batches that are sent now would be run at once."""
        return self._lanes - len(self.batches) if self.is_idle else 0

    @property
    def may_have_another(self) -> bool:
        """A batch that is sent now would wait, and not for long."""
        return (
            self._lanes == 1
            and len(self.batches) < _BATCHES
            and self._last_took <= _SHORT
            and not self.left.done()
            and not self._retired
        )

    @property
    def waiting(self) -> Sequence[RunningBatch]:
        """Batches that the worker has and does not run yet."""
        return self.batches[self._lanes :]

    def run(self, jobs: Sequence[Job], release: Release) -> None:
        batch = RunningBatch(jobs, release, self._loop.time())
        self.batches.append(batch)
        for job in jobs:
            job.holder = self
            job.batch_size = len(jobs)
        self._watch()
        try:
            self.worker.run(batch.jobs, partial(self._hear, batch))
        except Exception as error:
            self.fail(error)

    def _hear(self, batch: RunningBatch, update: Answers) -> None:
        try:
            batch.since = self._loop.time()
            if update.done is not None:
                self.batches.remove(batch)
                self._last_took = batch.since - batch.begun
                if self.batches and self._lanes == 1:  # the time that it waited in the worker does not count
                    self.batches[0].begun = self.batches[0].since = batch.since
            self._answered(self, batch, update)
            for answer in update.answers:
                if not answer.last and (job := batch.jobs[answer.index]).behind:
                    self._slow_down(job)
            if self._retired:
                self._leave_if_nobody_waits()
        except Exception as error:
            if batch not in self.batches:  # those of its jobs that have no answer yet are settled with the others
                self.batches.insert(0, batch)
            self.fail(error)

    def _slow_down(self, job: Job) -> None:
        """Its reader is behind. A worker that runs one batch waits as a whole; of one that runs many, only this job's
        answer waits, if its handler can. One that cannot may be ahead of the reader by so much, and no further."""
        if job not in self._behind:
            self._behind.add(job)
            job.when_read(partial(self._caught_up, job))
            if self._lanes == 1:
                self.worker.pause()
            else:
                self.worker.hold(job, True)
        elif self._lanes > 1 and job.far_behind:
            job.fail(ReaderTooSlow())

    def _caught_up(self, job: Job) -> None:
        self._behind.discard(job)
        if self.left.done():
            return
        if self._lanes > 1:
            self.worker.hold(job, False)
        elif not self._behind:
            self.worker.resume()
        now = self._loop.time()
        for batch in self._owing():  # it was not the worker that was late
            if self._lanes == 1 or job in batch.jobs:
                batch.since = now
        self._watch()

    def _owing(self) -> Sequence[RunningBatch]:
        """The batches that the worker runs, and that it is not kept from by their readers."""
        running = self.batches[: self._lanes]
        if not self._behind:
            return running
        return [batch for batch in running if self._lanes > 1 and self._behind.isdisjoint(batch.jobs)]

    def _watch(self) -> None:
        """One timer for all batches, set anew only when it has run out: most batches end long before."""
        if self._watchdog is None and (owing := self._owing()):
            due = min(batch.since for batch in owing) + self._timeout
            self._watchdog = self._loop.call_at(due, self._look_after)

    def _look_after(self) -> None:
        self._watchdog = None
        late = self._loop.time() - self._timeout
        hung = [batch for batch in self._owing() if batch.since <= late]
        if not hung:
            self._watch()
            return
        error = ResponseTimeout(self._timeout, self.worker.doing())
        for batch in hung:
            for job in batch.jobs:
                job.fail(error)
        self.fail(error)

    def unwanted(self, job: Job) -> None:
        """As the holder of running jobs: the worker need not go on for this one."""
        if job.given_up and any(job in batch.jobs for batch in self.batches[: self._lanes]):
            self._events.work_wasted(self._spec, job.given_up)
        self.worker.unwanted(job)
        if self._retired:
            self._leave_if_nobody_waits()

    def retire(self) -> None:
        """No more batches. Those that it has are run to their end, as long as somebody waits for them."""
        self._retired = True
        self._leave_if_nobody_waits()

    def _leave_if_nobody_waits(self) -> None:
        if self.left.done():
            return
        if not self.batches:
            self.left.set_result(None)
        elif not any(job.wanted for batch in self.batches for job in batch.jobs):
            self.left.cancel()

    def fail(self, error: Exception) -> None:
        if not self.left.done():
            self.left.set_exception(error)

    @property
    def was_hung(self) -> bool:
        """Its worker was given up because it gave no answer in time."""
        failed = self.left.done() and not self.left.cancelled()
        return failed and isinstance(self.left.exception(), ResponseTimeout)

    def close(self) -> None:
        """When its worker is gone."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        self.left.cancel()

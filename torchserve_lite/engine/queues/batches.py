"""The queue of one model version, from which workers take batches (dynamic batching)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from itertools import islice
from time import perf_counter

from torchserve_lite.core.jobs import Job
from torchserve_lite.engine.interface import JobQueue, Release
from torchserve_lite.engine.queues.policies import NOW, ReleasePolicy
from torchserve_lite.engine.slot import Slot
from torchserve_lite.errors import DeadlineExceeded, QueueFull, ServingError
from torchserve_lite.ipc.messages import Answer

_LARGE = 1_000_000  # bytes of a body: rows so long gain little by being many, and copies of them take memory


class BatchAggregator:
    """A ``JobQueue``: jobs wait in order of arrival, at most ``capacity`` of them, and leave at most ``size`` at once,
    when ``policy`` says so."""

    by_sequence = False

    def __init__(self, name: str, size: int, capacity: int, policy: ReleasePolicy) -> None:
        self.batch_size = size
        self.capacity = capacity
        self.release: Release = "full"
        self.running = 0
        self.workers = 1
        self._name = name
        self._policy = policy
        self._jobs: dict[Job, None] = {}  # an ordered set: a job that nobody wants leaves from the middle
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job) -> bool:
        waiting = len(self._jobs) + 1
        if waiting > self.capacity:
            raise QueueFull(self._name, self.capacity)
        job.holder = self
        self._jobs[job] = None
        return waiting % self.batch_size == 0

    @property
    def full_batches(self) -> int:
        return len(self._jobs) // self.batch_size

    def due(self, slot: Slot) -> float:
        if not self._jobs:
            return math.inf
        oldest = next(iter(self._jobs))
        if not oldest.batchable:
            return NOW
        self._policy.seen(len(self._jobs), self.running)
        return self._policy.release_time(oldest.arrived, len(self._jobs), self.running, self._shares(oldest))

    def next_batch(self, slot: Slot) -> Sequence[Job]:
        """The first jobs, without those whose deadline has passed (its timer may not have fired yet, and the handler
        must not see the job all the same). An explanation or a description goes alone."""
        now, oldest = self._loop.time(), next(iter(self._jobs))
        self._policy.seen(len(self._jobs), self.running)
        shares = self._shares(oldest)
        size = self.batch_size if shares == self.workers else min(self.batch_size, self._policy.share(shares))
        first = list(islice(self._jobs, size))
        why = self._policy.released(now, oldest.arrived, len(self._jobs), self.running, shares)
        if why == "full" and size < self.batch_size:
            why = "clients"
        self.release = why if oldest.batchable else "alone"
        taken = perf_counter()
        batch: list[Job] = []
        for job in first:
            if not job.batchable and job is not oldest:
                break
            del self._jobs[job]
            job.holder = None
            job.waited = taken - job.made
            if job.deadline is not None and job.deadline <= now:
                job.fail(DeadlineExceeded(job.deadline - job.arrived))
            else:
                batch.append(job)
            if not job.batchable:
                break
        self.running += len(batch)
        return batch

    def _shares(self, oldest: Job) -> int:
        """Among how many the clients are divided. Of large bodies a worker has half of its share at a time: the other
        half is received or sent meanwhile, and there are copies of no more than that."""
        large = any(len(part.data) >= _LARGE for part in oldest.request.parts)
        return 2 * self.workers if large else self.workers

    def finished(self, jobs: Sequence[Job]) -> None:
        self._policy.seen(len(self._jobs), self.running)
        self.running -= len(jobs)

    def put_back(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.holder = self
        self._jobs = dict.fromkeys([*jobs, *self._jobs])

    def move_to(self, other: JobQueue, moved: Callable[[], None]) -> None:
        jobs, self._jobs = self._jobs, {}
        for job in jobs:
            try:
                other.put(job)
            except ServingError as error:
                job.fail(error)
        moved()

    def fail_all(self, error: ServingError) -> None:
        for job in list(self._jobs):
            job.fail(error)

    def replied(self, answers: Sequence[Answer]) -> None: ...

    def worker_came(self, slot: Slot) -> None: ...

    def worker_left(self, slot: Slot) -> None: ...

    def unwanted(self, job: Job) -> None:
        """As the holder of its jobs: nobody waits for this one any more."""
        self._policy.seen(len(self._jobs), self.running)
        self._jobs.pop(job, None)

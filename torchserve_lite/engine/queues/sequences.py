"""The queue of a model that keeps something of its clients between their requests (sequence batching)."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from uuid import uuid4

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import SequencePolicy
from torchserve_lite.core.requests import InferenceRequest, Verb
from torchserve_lite.core.shortening import shortened
from torchserve_lite.engine.interface import JobQueue, Release
from torchserve_lite.engine.queues.policies import NOW, ReleasePolicy
from torchserve_lite.engine.slot import Slot
from torchserve_lite.errors import (
    DeadlineExceeded,
    QueueFull,
    SequenceQueueFull,
    SequenceTimeout,
    ServingError,
    TooManySequences,
)
from torchserve_lite.ipc.messages import Answer

log = logging.getLogger(__name__)

_LONGEST_ID = 100  # characters of one that a message shows


class SequenceQueue:
    """A ``JobQueue``: the jobs of a sequence are run one after another, in their order and by one worker, those of
    several in batches of at most ``batch_size`` sequences, each of which has one job in it.

    A sequence begins with its first job, at the idle worker that has the fewest, and stays with that. When the worker
    is gone another one goes on with it. It ends when a request or an answer says so, and when one of its time limits
    passes. ``new_policy`` makes what says when a batch goes: one for each worker, since each has its own clients.
    """

    by_sequence = True
    full_batches = 0  # none waits in a worker that runs another one, since more of its sequences may join till then

    def __init__(
        self, name: str, batch_size: int, limits: SequencePolicy, new_policy: Callable[[], ReleasePolicy]
    ) -> None:
        self.batch_size = batch_size
        self.capacity = limits.most * (1 + limits.most_waiting)
        self.release: Release = "full"
        self.running = 0
        self.workers = 1
        self._name = name
        self._limits = limits
        self._new_policy = new_policy
        self._sequences: dict[str, _Sequence] = {}
        self._open: dict[Job, _Sequence] = {}  # of all jobs, those that run among them
        self._hosts: dict[Slot, _Host] = {}
        self._unhosted: dict[_Sequence, None] = {}  # ready for a worker, and none has been chosen so far
        self._turns = itertools.count()
        self._id_header = limits.headers.id.lower()
        self._end_header = limits.headers.end.lower()
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._open) - self.running

    def put(self, job: Job) -> bool:
        sequence = self._sequence_of(job)
        job.holder = self
        self._open[job] = sequence
        sequence.jobs[job] = None
        if len(sequence.jobs) == 1 and not sequence.busy:
            self._ready(sequence)
        return False

    def _sequence_of(self, job: Job) -> _Sequence:
        """The one that its request names, or a new one, whose name the handler then finds in the request's headers."""
        request, limits = job.request, self._limits
        if request.verb is Verb.DESCRIBE:  # a question of management, which belongs to none
            if len(self) >= self.capacity:
                raise QueueFull(self._name, self.capacity)
            return _Sequence("", ending=True)
        name = _header(request, self._id_header)
        sequence = self._sequences.get(name) if name else None
        if sequence is None:
            if len(self._sequences) >= limits.most:
                raise TooManySequences(self._name, limits.most)
            if not name:
                name = f"ts-seq-{uuid4()}"
                own = {limits.headers.id: name, limits.headers.start: "true"}
                replaced = {header.lower() for header in own}
                others = [header for header in request.headers if header[0].lower() not in replaced]
                job.request = replace(request, headers=(*others, *own.items()), encoded_headers=b"")
            return self._begin(name)
        if len(sequence.jobs) - (not sequence.busy) >= limits.most_waiting:
            raise SequenceQueueFull(self._name, shortened(name, _LONGEST_ID), limits.most_waiting)
        return sequence

    def due(self, slot: Slot) -> float:
        host = self._hosts[slot]
        ready = self._ready_for(host)
        if not ready:
            return math.inf
        if not ready[0].next_job.batchable:
            return NOW
        host.policy.seen(len(ready), host.running)
        return host.policy.release_time(_oldest(ready), len(ready), host.running, workers=1)

    def next_batch(self, slot: Slot) -> Sequence[Job]:
        """The next job of each sequence whose turn it is, without those whose deadline has passed. An explanation or a
        description goes alone."""
        now, taken = self._loop.time(), perf_counter()
        host = self._hosts[slot]
        ready = self._ready_for(host)
        why = host.policy.released(now, _oldest(ready), len(ready), host.running, workers=1)
        self.release = why if ready[0].next_job.batchable else "alone"
        batch: list[Job] = []
        expired: list[tuple[Job, float]] = []
        for sequence in ready:
            job = sequence.next_job
            if batch and not (job.batchable and batch[0].batchable and len(batch) < self.batch_size):
                break
            if job.deadline is not None and job.deadline <= now:
                expired.append((job, job.deadline - job.arrived))
                continue
            del sequence.jobs[job]
            self._not_ready(sequence)
            job.holder = None
            job.waited = taken - job.made
            sequence.busy = sequence.begun = True
            sequence.host = host
            host.sequences[sequence] = None
            batch.append(job)
        host.running += len(batch)
        self.running += len(batch)
        for job, timeout in expired:  # whose clients may send their next ones at once
            job.fail(DeadlineExceeded(timeout))
        return batch

    def _ready_for(self, host: _Host) -> list[_Sequence]:
        """Those of this worker, and its share of the new ones: what makes it as rich in sequences as the other workers
        that are idle. The one whose turn came first is the first."""
        if not self._unhosted:
            return list(host.ready)
        idle = [other for other in self._hosts.values() if other is host or not other.running]
        average = -(-(len(self._unhosted) + sum(len(other.sequences) for other in idle)) // len(idle))
        share = itertools.islice(self._unhosted, max(0, average - len(host.sequences)))
        return sorted([*host.ready, *share], key=lambda sequence: sequence.turn)

    def replied(self, answers: Sequence[Answer]) -> None:
        """An answer may name sequences that have ended."""
        for answer in answers:
            for name, value in answer.reply.headers:
                if name.lower() == self._end_header:
                    for ended in value.split(";"):
                        if sequence := self._sequences.get(ended.strip()):
                            sequence.ending = True
                            if not sequence.busy:
                                self._end(sequence)

    def finished(self, jobs: Sequence[Job]) -> None:
        self.running -= len(jobs)
        if host := self._open[jobs[0]].host:
            host.policy.seen(len(host.ready), host.running)
            host.running -= len(jobs)
        for job in jobs:
            sequence = self._open.pop(job)
            if _header(job.request, self._end_header).lower() == "true":
                sequence.ending = True
            self._free(sequence)

    def put_back(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            name = _header(job.request, self._id_header)
            if job.request.verb is Verb.DESCRIBE:
                sequence = _Sequence("", ending=True)
            else:
                sequence = self._sequences.get(name) or self._begin(name)
            job.holder = self
            self._open[job] = sequence
            sequence.jobs = {job: None, **sequence.jobs}
            if len(sequence.jobs) == 1:
                self._ready(sequence)

    def move_to(self, other: JobQueue, moved: Callable[[], None]) -> None:
        """What a worker here still runs of a sequence comes before what waits of it, there as well."""
        if self._sequences:
            log.warning(
                "New workers of model %s take over. They know nothing of what the old ones kept of its sequences (%d).",
                self._name,
                len(self._sequences),
            )
        for sequence in dict.fromkeys([*self._sequences.values(), *self._open.values()]):
            if sequence.busy and sequence.id and isinstance(other, SequenceQueue):
                sequence.goes_on = partial(other._go_on, other._hold(sequence.id), moved)
            jobs, sequence.jobs = list(sequence.jobs), {}
            for job in jobs:
                del self._open[job]
                try:
                    other.put(job)
                except ServingError as error:
                    job.fail(error)
            sequence.ending = True
            if not sequence.busy:
                self._end(sequence)
        moved()

    def _hold(self, name: str) -> _Sequence:
        """One of which another queue has a job that runs."""
        sequence = self._begin(name)
        sequence.busy = True
        return sequence

    def _go_on(self, sequence: _Sequence, moved: Callable[[], None]) -> None:
        self._free(sequence)
        moved()

    def fail_all(self, error: ServingError) -> None:
        for job in [job for job in self._open if job.holder is self]:
            job.fail(error)

    def unwanted(self, job: Job) -> None:
        """As the holder of its jobs: nobody waits for this one any more."""
        sequence = self._open.pop(job, None)
        if sequence is None:
            return
        del sequence.jobs[job]
        if not sequence.jobs and not sequence.busy:
            self._not_ready(sequence)
            self._rest(sequence)

    def worker_came(self, slot: Slot) -> None:
        self._hosts[slot] = _Host(self._new_policy())

    def worker_left(self, slot: Slot) -> None:
        """Its sequences go on, with the next worker, which knows nothing of what this one's handler has kept."""
        host = self._hosts.pop(slot, None)
        if host is None:
            return
        if host.sequences and self.workers:
            log.warning(
                "Worker %s of model %s has gone, and with it what its handler kept of its sequences (%d). Other "
                "workers go on with them.",
                slot.id,
                self._name,
                len(host.sequences),
            )
        for sequence in host.sequences:
            sequence.host = None
            if sequence in host.ready:
                self._unhosted[sequence] = None
            elif not sequence.busy and not self.workers:
                self._end(sequence)

    def _begin(self, name: str) -> _Sequence:
        sequence = self._sequences[name] = _Sequence(name)
        if self._limits.timeout is not None:
            sequence.limit = self._loop.call_later(self._limits.timeout, self._time_out, sequence)
        return sequence

    def _ready(self, sequence: _Sequence) -> None:
        """It is its turn after that of all others."""
        sequence.turn = next(self._turns)
        (self._unhosted if sequence.host is None else sequence.host.ready)[sequence] = None

    def _not_ready(self, sequence: _Sequence) -> None:
        (self._unhosted if sequence.host is None else sequence.host.ready).pop(sequence, None)

    def _free(self, sequence: _Sequence) -> None:
        """The job of it that ran has ended."""
        sequence.busy = False
        if sequence.ending:
            self._end(sequence)
        elif sequence.jobs:
            self._ready(sequence)
        else:
            self._rest(sequence)

    def _rest(self, sequence: _Sequence) -> None:
        """Nothing of it waits or runs. One that no worker knows of holds no place."""
        if sequence.ending or not sequence.begun or not self.workers:
            self._end(sequence)
            return
        sequence.idle_since = self._loop.time()
        if sequence.idle is None:
            sequence.idle = self._loop.call_later(self._limits.max_idle, self._look_after, sequence)

    def _look_after(self, sequence: _Sequence) -> None:
        """One timer, set anew only when it has run out: most requests come long before."""
        sequence.idle = None
        if sequence.jobs or sequence.busy:
            return
        due = sequence.idle_since + self._limits.max_idle
        if due > self._loop.time():
            sequence.idle = self._loop.call_at(due, self._look_after, sequence)
        else:
            self._end(sequence)

    def _time_out(self, sequence: _Sequence) -> None:
        sequence.ending = True
        seconds = self._limits.timeout or 0.0
        for job in list(sequence.jobs):
            job.fail(SequenceTimeout(self._name, shortened(sequence.id, _LONGEST_ID), seconds))
        if not sequence.busy and self._sequences.get(sequence.id) is sequence:
            self._end(sequence)

    def _end(self, sequence: _Sequence) -> None:
        """Its place is free. Requests that came after its end begin the next sequence of that name."""
        self._not_ready(sequence)
        if sequence.host is not None:
            del sequence.host.sequences[sequence]
        for timer in (sequence.idle, sequence.limit):
            if timer is not None:
                timer.cancel()
        self._sequences.pop(sequence.id, None)
        if sequence.jobs:
            following = self._begin(sequence.id)
            following.jobs = sequence.jobs
            self._open.update(dict.fromkeys(following.jobs, following))
            self._ready(following)
        if sequence.goes_on is not None:
            sequence.goes_on()


class _Sequence:
    """``jobs`` wait; it is ``busy`` while one is with a worker. ``begun``: a worker has had one. ``ending``: it ends
    when it is not busy any more; ``goes_on`` is called then, where another queue has what follows. ``idle`` and
    ``limit`` end it in time."""

    __slots__ = ("begun", "busy", "ending", "goes_on", "host", "id", "idle", "idle_since", "jobs", "limit", "turn")

    def __init__(self, name: str, *, ending: bool = False) -> None:
        self.id = name
        self.jobs: dict[Job, None] = {}  # an ordered set: a job that nobody wants leaves from the middle
        self.busy = False
        self.begun = False
        self.ending = ending
        self.goes_on: Callable[[], None] | None = None
        self.host: _Host | None = None
        self.turn = 0
        self.idle_since = 0.0
        self.idle: asyncio.TimerHandle | None = None
        self.limit: asyncio.TimerHandle | None = None

    @property
    def next_job(self) -> Job:
        return next(iter(self.jobs))


class _Host:
    """A worker, with the sequences that stay with it. ``ready`` ones have a job that it could run."""

    def __init__(self, policy: ReleasePolicy) -> None:
        self.policy = policy
        self.sequences: dict[_Sequence, None] = {}
        self.ready: dict[_Sequence, None] = {}
        self.running = 0  # jobs


def _oldest(ready: Sequence[_Sequence]) -> float:
    return min(sequence.next_job.arrived for sequence in ready)


def _header(request: InferenceRequest, lower_name: str) -> str:
    """In any spelling, several joined as handlers find them; empty when there is none."""
    return ", ".join([value for name, value in request.headers if name.lower() == lower_name and value])

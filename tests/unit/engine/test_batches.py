"""When jobs become a batch: the promises of the job queue, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import NewJob, job_maker
from tests.virtual_time import virtual_time
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import BatchPolicy, RecoveryPolicy
from torchserve_lite.core.requests import InferenceResponse, Verb
from torchserve_lite.engine.queues.batches import BatchAggregator
from torchserve_lite.engine.queues.policies import NOW, ShareOfClients
from torchserve_lite.engine.restarts import Restarts
from torchserve_lite.engine.slot import Slot
from torchserve_lite.errors import DeadlineExceeded, NoWorkers, QueueFull

DONE = InferenceResponse(b"")
SLOT = Slot("9000", None, Restarts(RecoveryPolicy()))


def aggregator(size: int = 4, delay: float = 1.0, capacity: int = 100) -> BatchAggregator:
    return BatchAggregator("tiny", size, capacity, ShareOfClients(BatchPolicy(size=size, delay=delay)))


def now() -> float:
    return asyncio.get_running_loop().time()


def goes(queue: BatchAggregator) -> bool:
    """Whether an idle worker gets a batch at this moment."""
    return queue.due(SLOT) <= now()


async def next_batch(queue: BatchAggregator) -> Sequence[Job]:
    """Waits until a batch is due, which nothing else may change meanwhile, and takes it."""
    if not goes(queue):
        await asyncio.sleep(queue.due(SLOT) - now())
    return queue.next_batch(SLOT)


async def answered(queue: BatchAggregator, size: int | None = None) -> Sequence[Job]:
    """What a worker does with the next batch: takes it and answers it."""
    batch = await next_batch(queue)
    for job in batch:
        job.succeed(DONE)
    queue.finished(batch)
    assert size is None or len(batch) == size
    return batch


async def know_clients(queue: BatchAggregator, new_job: NewJob, clients: int) -> None:
    """The queue has seen this many jobs at once, and has answered all of them."""
    for _ in range(clients):
        queue.put(new_job())
    while len(queue):
        await answered(queue)


@pytest.mark.parametrize(
    ("waiting", "expected", "when"),
    [
        pytest.param(4, 9, NOW, id="full"),
        pytest.param(3, 9, 11.0, id="not full, more clients may send"),
        pytest.param(3, 3, NOW, id="all clients are here"),
        pytest.param(1, 1, NOW, id="the only client is here"),
        pytest.param(1, 0, NOW, id="more here than ever seen"),
        pytest.param(1, 2, 11.0, id="one of two clients"),
    ],
)
def test_release_time_depends_on_who_may_still_come(waiting: int, expected: int, when: float) -> None:
    """``expected`` is how many clients the one worker has seen lately."""
    policy = ShareOfClients(BatchPolicy(size=4, delay=1.0))
    policy.seen(expected, 0)
    assert policy.release_time(10.0, waiting, 0, workers=1) == when


@virtual_time
async def test_full_batch_goes_at_once(new_job: NewJob) -> None:
    queue = aggregator(size=2, delay=60)
    await know_clients(queue, new_job, 8)
    jobs = [new_job(), new_job()]
    queue.put(jobs[0])
    await asyncio.sleep(1)
    assert not goes(queue)
    queue.put(jobs[1])
    assert goes(queue)
    assert queue.next_batch(SLOT) == jobs


@pytest.mark.parametrize(("size", "waiting", "batches"), [(4, 3, 0), (4, 4, 1), (4, 7, 1), (4, 8, 2), (1, 3, 3)])
@virtual_time
async def test_batches_are_full_that_no_other_job_could_join(
    size: int, waiting: int, batches: int, new_job: NewJob
) -> None:
    queue = aggregator(size=size)
    for _ in range(waiting):
        queue.put(new_job())
    assert queue.full_batches == batches


@virtual_time
async def test_incomplete_batch_goes_when_its_oldest_job_has_waited_the_delay(new_job: NewJob) -> None:
    queue, begun = aggregator(delay=60), now()
    await know_clients(queue, new_job, 8)
    queue.put(new_job())
    await asyncio.sleep(59)
    queue.put(new_job())
    assert not goes(queue)
    assert len(await next_batch(queue)) == 2
    assert now() == begun + 60


@virtual_time
async def test_delay_has_passed_already_for_a_job_that_queued_behind_a_busy_worker(new_job: NewJob) -> None:
    queue = aggregator(delay=1.0)
    await know_clients(queue, new_job, 8)
    queue.put(new_job())
    await asyncio.sleep(5)  # nobody asks for a batch meanwhile
    begun = now()
    await answered(queue, 1)
    assert now() == begun


@virtual_time
async def test_lone_client_never_waits(new_job: NewJob) -> None:
    queue, begun = aggregator(delay=60), now()
    for _ in range(5):
        queue.put(new_job())
        await answered(queue, 1)
    assert now() == begun


@virtual_time
async def test_batch_goes_at_once_when_all_clients_of_late_are_in_it(new_job: NewJob) -> None:
    queue, begun = aggregator(size=32, delay=60), now()
    await know_clients(queue, new_job, 3)
    for _ in range(3):
        queue.put(new_job())
    await answered(queue, 3)
    assert now() == begun


@pytest.mark.parametrize(
    ("workers", "clients", "enough"),
    [(1, 16, 16), (2, 16, 8), (4, 16, 4), (16, 16, 1), (32, 16, 1), (1, 3, 3), (2, 3, 2), (1, 1, 1)],
)
@virtual_time
async def test_a_workers_share_of_the_clients_is_enough(
    workers: int, clients: int, enough: int, new_job: NewJob
) -> None:
    queue = aggregator(size=32, delay=60)
    await know_clients(queue, new_job, clients)
    queue.workers = workers
    for missing in reversed(range(enough)):
        assert not goes(queue)
        queue.put(new_job())
        assert goes(queue) is (missing == 0)
    assert len(queue.next_batch(SLOT)) == enough


@pytest.mark.parametrize(
    ("workers", "clients", "at_once"),
    [(1, 4, 2), (1, 5, 3), (2, 8, 2), (4, 3, 1), (1, 1, 1), (2, 16, 4), (1, 16, 8), (1, 40, 8)],
)
@virtual_time
async def test_of_large_bodies_a_worker_has_half_its_share_at_a_time(
    workers: int, clients: int, at_once: int, new_job: NewJob
) -> None:
    """So there are copies of no more than half of what lies in memory, and the other half can be on its way."""
    queue, body = aggregator(size=8, delay=60), bytes(1_000_000)
    await know_clients(queue, new_job, clients)
    queue.workers = workers
    for missing in reversed(range(at_once)):
        assert not goes(queue)
        queue.put(new_job(body))
        assert goes(queue) is (missing == 0)
    for _ in range(clients - at_once):
        queue.put(new_job(body))
    assert len(queue.next_batch(SLOT)) == at_once
    assert queue.release == ("full" if at_once == 8 else "clients")


@virtual_time
async def test_running_jobs_are_not_waited_for(new_job: NewJob) -> None:
    """Their clients wait for an answer and send nothing more."""
    queue = aggregator(size=2, delay=60)
    for _ in range(4):
        queue.put(new_job())
    queue.next_batch(SLOT)
    queue.next_batch(SLOT)
    queue.put(new_job())
    assert goes(queue)
    assert len(queue.next_batch(SLOT)) == 1


@virtual_time
async def test_batch_that_waited_in_vain_makes_later_ones_not_wait(new_job: NewJob) -> None:
    queue = aggregator(delay=60)
    await know_clients(queue, new_job, 8)  # and now only one of them is left
    begun = now()
    for _ in range(3):
        queue.put(new_job())
        await answered(queue, 1)
    assert now() == begun + 60  # the first of the three has paid for all


@pytest.mark.parametrize("verb", [Verb.EXPLAIN, Verb.DESCRIBE])
@virtual_time
async def test_explanation_runs_alone_in_its_place(new_job: NewJob, verb: Verb) -> None:
    queue = aggregator(size=8)
    for body, kind in ((b"1", Verb.PREDICT), (b"2", verb), (b"3", Verb.PREDICT), (b"4", Verb.PREDICT)):
        queue.put(new_job(body, verb=kind))
    batches = [await answered(queue) for _ in range(3)]
    assert [[job.request.parts[0].data for job in batch] for batch in batches] == [[b"1"], [b"2"], [b"3", b"4"]]


@virtual_time
async def test_explanation_at_the_head_does_not_wait_for_others(new_job: NewJob) -> None:
    queue, begun = aggregator(delay=60), now()
    await know_clients(queue, new_job, 8)
    queue.put(new_job(verb=Verb.EXPLAIN))
    await answered(queue, 1)
    assert now() == begun


@virtual_time
async def test_abandoned_job_leaves_the_queue_at_once_and_frees_its_place(new_job: NewJob) -> None:
    queue = aggregator(capacity=1)
    gone, stays = new_job(), new_job()
    queue.put(gone)
    gone.abandon()
    assert len(queue) == 0
    queue.put(stays)
    assert queue.next_batch(SLOT) == [stays]


@virtual_time
async def test_delay_counts_from_the_oldest_job_that_is_still_wanted(new_job: NewJob) -> None:
    queue = aggregator(delay=60)
    await know_clients(queue, new_job, 8)
    gone = new_job()
    queue.put(gone)
    await asyncio.sleep(30)
    queue.put(new_job())
    begun = now()
    gone.abandon()
    assert len(await next_batch(queue)) == 1
    assert now() == begun + 60


@virtual_time
async def test_job_past_its_deadline_is_never_handed_out(new_job: NewJob) -> None:
    queue = aggregator()
    late, good = new_job(within=2), new_job(within=9)
    queue.put(late)
    queue.put(good)
    await asyncio.sleep(2)
    assert queue.next_batch(SLOT) == [good]
    assert queue.running == 1
    with pytest.raises(DeadlineExceeded, match="2 s"):
        await late.answer


@virtual_time
async def test_batch_is_empty_when_all_of_its_jobs_had_expired(new_job: NewJob) -> None:
    queue = aggregator()
    late = new_job(within=2)
    queue.put(late)
    await asyncio.sleep(3)
    assert (queue.next_batch(SLOT), queue.running, len(queue)) == ([], 0, 0)
    assert late.answer.exception() is not None


@virtual_time
async def test_queue_refuses_at_capacity_and_names_the_limit(new_job: NewJob) -> None:
    queue = aggregator(size=1, capacity=2)
    queue.put(new_job())
    queue.next_batch(SLOT)  # what runs does not count
    queue.put(new_job())
    queue.put(new_job())
    with pytest.raises(QueueFull, match="job_queue_size=2"):
        queue.put(new_job())


@virtual_time
async def test_fail_all_answers_every_waiting_job(new_job: NewJob) -> None:
    queue = aggregator()
    jobs = [new_job() for _ in range(3)]
    for job in jobs:
        queue.put(job)
    queue.fail_all(NoWorkers("tiny"))
    assert len(queue) == 0
    assert [type(job.answer.exception()) for job in jobs] == [NoWorkers] * 3


@virtual_time
async def test_jobs_that_move_to_another_queue_keep_their_order(new_job: NewJob) -> None:
    old, new = aggregator(), aggregator(capacity=3)
    jobs = [new_job() for _ in range(4)]
    for job in jobs:
        old.put(job)
    old.move_to(new, lambda: None)
    jobs[0].abandon()
    assert (len(old), new.next_batch(SLOT)) == (0, jobs[1:3])
    assert isinstance(jobs[3].answer.exception(), QueueFull)


@virtual_time
async def test_job_knows_how_long_it_waited(new_job: NewJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchserve_lite.core.jobs.perf_counter", lambda: now())
    monkeypatch.setattr("torchserve_lite.engine.queues.batches.perf_counter", lambda: now())
    queue, job = aggregator(), new_job()
    queue.put(job)
    await asyncio.sleep(0.25)
    queue.next_batch(SLOT)
    assert job.waited == 0.25


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(Verb), st.none() | st.integers(1, 5)),
        st.tuples(st.just("pass"), st.integers(0, 3)),
        st.tuples(st.just("abandon"), st.integers(0, 30)),
        st.tuples(st.just("take")),
        st.tuples(st.just("end"), st.integers(0, 3), st.booleans()),
    ),
    max_size=40,
)


class Life:
    """A queue from which workers take what is due, answer it a second later or put it back, and clients that come and
    go."""

    def __init__(self, size: int, delay: float) -> None:
        self.queue = aggregator(size=size, delay=delay, capacity=10)
        self.new_job = job_maker()
        self.jobs: list[Job] = []
        self.running: list[Sequence[Job]] = []
        self.batches: list[Sequence[Job]] = []

    async def step(self, kind: str, *what: Any) -> None:
        match kind, what:
            case "put", (verb, within):
                self.put(self.new_job(verb=verb, within=within))
            case "pass", (seconds,):
                await asyncio.sleep(seconds)
            case "abandon", (index,) if self.jobs:
                self.jobs[index % len(self.jobs)].abandon()
            case "take", ():
                self.take()
            case "end", (index, well) if self.running:
                self.end_batch(self.running.pop(index % len(self.running)), well=well)

    def put(self, job: Job) -> None:
        try:
            self.queue.put(job)
        except QueueFull:
            assert len(self.queue) == 10
        else:
            self.jobs.append(job)

    def take(self) -> None:
        if goes(self.queue) and (batch := self.queue.next_batch(SLOT)):
            assert all(job.deadline is None or now() < job.deadline for job in batch)
            self.running.append(batch)

    def end_batch(self, batch: Sequence[Job], *, well: bool) -> None:
        self.queue.finished(batch)
        if well:
            self.batches.append(batch)
            for job in batch:
                job.succeed(DONE)
        else:
            self.queue.put_back([job for job in batch if job.wanted])

    async def end(self) -> None:
        for batch in self.running:
            self.end_batch(batch, well=True)
        while len(self.queue):
            await asyncio.sleep(max(0, self.queue.due(SLOT) - now()))
            if batch := self.queue.next_batch(SLOT):
                self.end_batch(batch, well=True)


@given(steps=STEPS, size=st.integers(1, 4), delay=st.sampled_from([0.0, 0.5, 2.0]))
@virtual_time
async def test_every_job_is_handed_out_once_or_settled_and_in_small_batches(
    steps: list[tuple[Any, ...]], size: int, delay: float
) -> None:
    life = Life(size, delay)
    for step in steps:
        await life.step(*step)
    await life.end()
    handed_out = [job for batch in life.batches for job in batch]
    assert len(set(handed_out)) == len(handed_out)
    assert all(list(batch) == sorted(batch, key=life.jobs.index) for batch in life.batches)
    assert all(len(batch) <= (size if batch[0].batchable else 1) for batch in life.batches)
    assert all(job in handed_out or was_settled(job) for job in life.jobs)
    assert (len(life.queue), life.queue.running) == (0, 0)


@virtual_time
async def test_jobs_that_are_put_back_are_the_next_ones_in_their_order(new_job: NewJob) -> None:
    queue = aggregator(size=2)
    jobs = [new_job() for _ in range(5)]
    for job in jobs:
        queue.put(job)
    first, second = queue.next_batch(SLOT), queue.next_batch(SLOT)
    for batch in (second, first):  # as a pool does it: what is put back later comes first
        queue.finished(batch)
        queue.put_back(batch)
    assert [job for _ in range(3) for job in queue.next_batch(SLOT)] == jobs


def was_settled(job: Job) -> bool:
    return job.answer.cancelled() or isinstance(job.answer.exception(), DeadlineExceeded)

"""A pool of workers: deaths, restarts, scaling, draining and streams, with fake workers in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import NewJob, job_maker, spec_of, stream_of
from tests.virtual_time import virtual_time
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import BatchPolicy, ModelSpec, RecoveryPolicy, SequencePolicy, WorkerState
from torchserve_lite.core.requests import Verb
from torchserve_lite.core.streams import Buffer
from torchserve_lite.engine.interface import EngineEvents, JobQueue
from torchserve_lite.engine.pool import WorkerPool
from torchserve_lite.engine.queues.batches import BatchAggregator
from torchserve_lite.engine.queues.policies import ShareOfClients
from torchserve_lite.engine.queues.sequences import SequenceQueue
from torchserve_lite.engine.restarts import Restarts
from torchserve_lite.engine.slot import Slot
from torchserve_lite.errors import (
    DeadlineExceeded,
    InvalidInput,
    LoadFailed,
    ModelFailed,
    NoIdleWorker,
    NoWorkers,
    QueueFull,
    ReaderTooSlow,
    ResponseTimeout,
    ServingError,
    Unavailable,
    WorkerDied,
    WorkerRestarting,
)
from torchserve_lite.ipc.messages import Answer, Answers, BatchDone, FailureKind, Reply

from .fake_workers import FakeLauncher, FakeWorker, NotedEvents, Script, body_of, chunk, echo_after, result

ALWAYS = itertools.repeat(True)


@asynccontextmanager
async def pool_of(
    launcher: FakeLauncher, workers: int = 1, events: EngineEvents | None = None, **facts: Any
) -> AsyncIterator[WorkerPool]:
    """A pool that has begun to start its workers."""
    ids = itertools.count(1)
    spec = spec_of(**facts)
    pool = WorkerPool(
        spec,
        queue_of(spec),
        launcher,
        lambda spec: Slot(str(next(ids)), None, Restarts(spec.recovery)),
        events or NotedEvents(),
    )
    running = asyncio.create_task(pool.run())
    await pool.opened()
    pool.scale(workers)
    try:
        yield pool
    finally:
        pool.close()
        await running


def queue_of(spec: ModelSpec) -> JobQueue:
    if spec.sequences is not None:
        return SequenceQueue(spec.key.name, spec.batch.size, spec.sequences, lambda: ShareOfClients(spec.batch))
    return BatchAggregator(spec.key.name, spec.batch.size, spec.queue_size, ShareOfClients(spec.batch))


def asked(pool: WorkerPool, *jobs: Job) -> tuple[Job, ...]:
    for job in jobs:
        pool.submit(job)
    return jobs


async def body(job: Job) -> Buffer:
    return (await job.answer).body


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual_time
async def test_job_is_answered_by_a_worker(new_job: NewJob) -> None:
    async with pool_of(FakeLauncher()) as pool:
        (job,) = asked(pool, new_job(b"7"))
        assert await body(job) == b"7"


@virtual_time
async def test_batch_goes_to_one_worker_and_each_job_gets_its_own_answer(new_job: NewJob) -> None:
    launcher = FakeLauncher()
    async with pool_of(launcher, batch=BatchPolicy(size=3)) as pool:
        jobs = asked(pool, *(new_job(str(number).encode()) for number in range(3)))
        assert [await body(job) for job in jobs] == [b"0", b"1", b"2"]
    assert launcher.workers[0].batches == [[b"0", b"1", b"2"]]


@virtual_time
async def test_failed_reply_is_the_jobs_own_failure(new_job: NewJob) -> None:
    async def script(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        bad, good = Reply(b"bad row", failure=FailureKind.REFUSED), Reply(b"fine")
        yield Answers(1, (Answer(0, bad), Answer(1, good)), BatchDone())

    async with pool_of(FakeLauncher(script), batch=BatchPolicy(size=2)) as pool:
        bad, good = asked(pool, new_job(), new_job())
        assert await body(good) == b"fine"
        with pytest.raises(InvalidInput, match="bad row"):
            await bad.answer


async def dies_before_it_begins(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
    worker.began = False
    worker.die(f"Death of {worker.pid}.")
    if worker.death is not None:
        raise worker.death
    yield result()


@pytest.mark.parametrize(
    ("scripts", "answer"),
    [
        pytest.param([dies_before_it_begins, echo_after(1)], b"7", id="once: the next worker answers it"),
        pytest.param([dies_before_it_begins], "Death of 2", id="twice: it may be the cause"),
    ],
)
@virtual_time
async def test_batch_that_was_never_taken_up_is_given_to_one_more_worker(
    scripts: list[Script], answer: bytes | str, new_job: NewJob
) -> None:
    """A body that no worker could take in went to one after the other, until the model had no worker left."""
    launcher = FakeLauncher(*scripts)
    async with pool_of(launcher) as pool:
        (job,) = asked(pool, new_job(b"7"))
        if isinstance(answer, bytes):
            assert await body(job) == answer
        else:
            with pytest.raises(WorkerDied, match=answer):
                await job.answer
    assert len([worker for worker in launcher.workers if worker.batches]) == 2


@virtual_time
async def test_death_of_an_idle_worker_costs_no_job(new_job: NewJob) -> None:
    """A first version noticed a dead idle worker only when the next job was sent to it, and sacrificed that job."""
    launcher = FakeLauncher()
    async with pool_of(launcher) as pool:
        await asyncio.sleep(1)
        launcher.workers[0].die()
        await asyncio.sleep(1)
        (job,) = asked(pool, new_job(b"7"))
        assert await body(job) == b"7"
    assert [worker.batches for worker in launcher.workers] == [[], [[b"7"]]]


@virtual_time
async def test_death_fails_its_batch_with_the_cause_and_the_queue_is_served_by_the_next_worker(new_job: NewJob) -> None:
    launcher = FakeLauncher(echo_after(10))
    async with pool_of(launcher, batch=BatchPolicy(size=2)) as pool:
        jobs = asked(pool, *(new_job(str(number).encode()) for number in range(4)))
        await asyncio.sleep(5)
        launcher.workers[0].die("Its process was ended by SIGSEGV.")
        assert [await body(job) for job in jobs[2:]] == [b"2", b"3"]
        for job in jobs[:2]:
            with pytest.raises(WorkerDied, match="SIGSEGV"):
                await job.answer
    assert launcher.alive == []


@virtual_time
async def test_worker_that_had_served_is_restarted_at_once(new_job: NewJob) -> None:
    launcher = FakeLauncher()
    async with pool_of(launcher) as pool:
        for _ in range(3):
            (job,) = asked(pool, new_job())
            await job.answer
            launcher.workers[-1].die()
            await asyncio.sleep(0.5)
        assert pool.status().ready_workers == 1
    assert launcher.delays == [1.0, 1.5, 1.5]  # the second that each batch took, and the pause before it


@pytest.mark.parametrize(
    ("life", "delays"),
    [
        pytest.param(0.5, [0, 1, 2, 3, 5], id="crash loop"),
        pytest.param(15.0, [0, 0, 0, 0, 0], id="proven by its age"),
    ],
)
@virtual_time
async def test_restart_delay_grows_only_while_workers_die_young(life: float, delays: list[float]) -> None:
    launcher = FakeLauncher(life=life)
    async with pool_of(launcher):
        await asyncio.sleep(100)
    assert launcher.delays[:5] == [life + delay for delay in delays]


@virtual_time
async def test_failed_load_is_tried_again_with_growing_delays_until_the_window_has_passed(new_job: NewJob) -> None:
    launcher, events = FakeLauncher(failures=ALWAYS), NotedEvents()
    async with pool_of(launcher, events=events, recovery=RecoveryPolicy(window=10)) as pool:
        (waiting,) = asked(pool, new_job())
        with pytest.raises(WorkerRestarting, match="no such weights"):
            await waiting.answer  # at once: its client need not wait for what may never come
        assert now() == 1000
        with pytest.raises(WorkerRestarting, match="no such weights"):
            pool.submit(new_job())
        await asyncio.sleep(30)
        with pytest.raises(ModelFailed, match="no such weights"):
            pool.submit(new_job())
        assert pool.status().failed
        assert "no such weights" in pool.status().last_failure
    assert launcher.delays == [1, 1, 2, 3, 5]
    assert [type(error) for error in events.failed] == [LoadFailed] * 6


@virtual_time
async def test_model_serves_again_when_a_later_load_succeeds(new_job: NewJob) -> None:
    async with pool_of(FakeLauncher(failures=[True, True])) as pool:
        await asyncio.sleep(5)
        (job,) = asked(pool, new_job(b"7"))
        assert await body(job) == b"7"


@virtual_time
async def test_scaling_gives_a_worker_that_was_given_up_another_life(new_job: NewJob) -> None:
    launcher = FakeLauncher(failures=[True, True])
    async with pool_of(launcher, recovery=RecoveryPolicy(window=0)) as pool:
        await asyncio.sleep(5)
        assert pool.status().failed
        pool.scale(1)
        await pool.until_scaled()
        (job,) = asked(pool, new_job(b"7"))
        assert await body(job) == b"7"


@virtual_time
async def test_other_workers_serve_on_when_one_is_given_up(new_job: NewJob) -> None:
    launcher = FakeLauncher(failures=[True, False, True])
    async with pool_of(launcher, 2, recovery=RecoveryPolicy(window=0)) as pool:
        await asyncio.sleep(5)
        states = sorted(worker.state for worker in pool.status().workers)
        assert states == [WorkerState.FAILED, WorkerState.READY]
        (job,) = asked(pool, new_job(b"7"))
        assert await body(job) == b"7"


@virtual_time
async def test_waiting_jobs_are_told_when_the_last_worker_cannot_restart_while_another_drains(new_job: NewJob) -> None:
    launcher = FakeLauncher(echo_after(1000), failures=[False, False, True, True])
    async with pool_of(launcher, 2, recovery=RecoveryPolicy(window=0)) as pool:
        await pool.until_scaled()
        asked(pool, new_job(), new_job())
        await asyncio.sleep(1)
        pool.scale(1)  # the newer worker ends when its batch does
        (waiting,) = asked(pool, new_job())
        launcher.workers[0].die()
        with pytest.raises(WorkerRestarting, match="no such weights"):
            await waiting.answer


@virtual_time
async def test_requests_that_a_hung_worker_had_besides_are_told_that_it_was_stopped_for_another(
    new_job: NewJob,
) -> None:
    """They read that the kernel had killed it, as if memory had run out."""

    async def killed(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        await asyncio.sleep(21)
        worker.die("Its process was ended by SIGKILL.")
        yield result(b"too late")

    async with pool_of(FakeLauncher(killed, echo_after(1.0)), response_timeout=20, lanes=4) as pool:
        (hung,) = asked(pool, new_job())
        await asyncio.sleep(10)
        (other,) = asked(pool, new_job())
        with pytest.raises(ResponseTimeout):
            await hung.answer
        with pytest.raises(WorkerDied, match=r"stopped for another request.*responseTimeout=20 s"):
            await other.answer


@virtual_time
async def test_hung_worker_is_stopped_and_its_batch_is_told_the_limit(new_job: NewJob) -> None:
    launcher = FakeLauncher(echo_after(1000), echo_after(1))
    async with pool_of(launcher, response_timeout=20) as pool:
        hung, queued = asked(pool, new_job(b"1"), new_job(b"2"))
        with pytest.raises(ResponseTimeout, match="responseTimeout=20 s"):
            await hung.answer
        assert now() == 1020
        assert await body(queued) == b"2"
        assert launcher.alive == launcher.workers[1:]


@virtual_time
async def test_response_timeout_counts_anew_for_each_chunk(new_job: NewJob) -> None:
    async def script(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        for _ in range(5):
            await asyncio.sleep(19)
            yield chunk(b"still here")
        yield result(b"end")

    async with pool_of(FakeLauncher(script), response_timeout=20) as pool:
        (job,) = asked(pool, new_job())
        assert await stream(job) == [b"still here"] * 5 + [b"end"]


@virtual_time
async def test_response_timeout_counts_anew_for_each_sign_of_life(new_job: NewJob) -> None:
    async def script(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        for _ in range(5):
            await asyncio.sleep(19)
            yield Answers(0, ())
        yield result(b"end")

    async with pool_of(FakeLauncher(script), response_timeout=20) as pool:
        (job,) = asked(pool, new_job())
        assert await body(job) == b"end"


async def stream(job: Job) -> list[Buffer]:
    first = await job.answer
    assert first.stream is not None
    return [first.body, *[piece async for piece in first.stream]]


@virtual_time
async def test_stream_begins_with_status_and_arrives_while_the_batch_runs(new_job: NewJob) -> None:
    async def script(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        yield chunk(b"one")
        await asyncio.sleep(60)
        yield chunk(b"two")
        yield result(b"end")

    async with pool_of(FakeLauncher(script)) as pool:
        (job,) = asked(pool, new_job())
        first = await job.answer
        assert (first.body, first.status, first.content_type) == (b"one", 201, "text/plain")
        assert now() == 1000
        assert first.stream is not None
        assert [piece async for piece in first.stream] == [b"two", b"end"]


@virtual_time
async def test_stream_breaks_off_with_the_cause_when_its_worker_dies(new_job: NewJob) -> None:
    async def script(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        yield chunk(b"one")
        worker.die("It was shot.")
        await asyncio.sleep(60)

    async with pool_of(FakeLauncher(script)) as pool:
        (job,) = asked(pool, new_job())
        with pytest.raises(WorkerDied, match="It was shot"):
            await stream(job)


@virtual_time
async def test_worker_is_told_when_the_reader_of_a_stream_has_gone(new_job: NewJob) -> None:
    async def script(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        for _ in range(10):
            yield chunk(b"more")
            await asyncio.sleep(1)
        yield result(b"end")

    launcher = FakeLauncher(script)
    async with pool_of(launcher) as pool:
        (job,) = asked(pool, new_job(b"7"))
        async with await stream_of(job) as pieces:
            assert await anext(pieces) == b"more"
        assert launcher.workers[0].cancelled == [b"7"]
        assert not job.wanted


@virtual_time
async def test_client_that_leaves_harms_no_other_job_of_the_batch(new_job: NewJob) -> None:
    launcher = FakeLauncher()
    async with pool_of(launcher, batch=BatchPolicy(size=2)) as pool:
        stays, leaves = asked(pool, new_job(b"1"), new_job(b"2"))
        await asyncio.sleep(0.5)
        leaves.abandon()
        assert launcher.workers[0].cancelled == [b"2"]
        assert await body(stays) == b"1"


@virtual_time
async def test_job_has_one_answer_when_its_deadline_passes_while_it_runs(new_job: NewJob) -> None:
    launcher = FakeLauncher(echo_after(10))
    async with pool_of(launcher) as pool:
        (job,) = asked(pool, new_job(b"7"))
        await asyncio.sleep(2)
        job.fail(DeadlineExceeded(2))
        await asyncio.sleep(20)
        with pytest.raises(DeadlineExceeded):
            await job.answer
    assert launcher.workers[0].cancelled == [b"7"]


@virtual_time
async def test_retired_worker_ends_its_batch_first(new_job: NewJob) -> None:
    launcher = FakeLauncher(echo_after(30))
    async with pool_of(launcher) as pool:
        (job,) = asked(pool, new_job(b"7"))
        await asyncio.sleep(1)
        pool.scale(0)
        assert await body(job) == b"7"
        await pool.until_scaled()
        assert (now(), launcher.alive, pool.status().workers) == (1030, [], ())


@pytest.mark.parametrize("leave", ["abandon", "deadline"])
@pytest.mark.parametrize("first", ["retired", "left"])
@virtual_time
async def test_retired_worker_is_not_waited_for_once_nobody_waits_for_it(
    leave: str, first: str, new_job: NewJob
) -> None:
    """A handler that slept for a minute kept the stop of the server waiting, though its clients had gone."""
    launcher = FakeLauncher(echo_after(30))
    async with pool_of(launcher, batch=BatchPolicy(size=2)) as pool:
        job, other = asked(pool, new_job(b"7"), new_job(b"8"))
        await asyncio.sleep(1)
        if first == "retired":
            pool.scale(0)
        for gone in (job, other):
            await asyncio.sleep(1)
            assert launcher.alive
            if leave == "abandon":
                gone.abandon()
            else:
                gone.fail(DeadlineExceeded(1))
        pool.scale(0)
        await pool.until_scaled()
        assert (now(), launcher.alive) == (1003, [])
        for gone in (job, other):
            with suppress(asyncio.CancelledError, DeadlineExceeded):
                await gone.answer


@virtual_time
async def test_worker_whose_clients_have_left_goes_on_while_it_is_wanted(new_job: NewJob) -> None:
    launcher = FakeLauncher(echo_after(30))
    async with pool_of(launcher) as pool:
        (job,) = asked(pool, new_job(b"7"))
        await asyncio.sleep(1)
        job.abandon()
        (next_job,) = asked(pool, new_job(b"8"))
        assert await body(next_job) == b"8"
        assert len(launcher.workers) == 1


@virtual_time
async def test_killed_pool_answers_its_jobs_and_leaves_no_worker(new_job: NewJob) -> None:
    launcher = FakeLauncher(echo_after(3000))
    async with pool_of(launcher) as pool:
        running, waiting = asked(pool, new_job(), new_job())
        await asyncio.sleep(1)
        pool.close()
        pool.kill()
        with pytest.raises(WorkerDied):
            await running.answer
        with pytest.raises(NoWorkers):
            await waiting.answer
    assert (now(), launcher.alive) == (1001, [])


@virtual_time
async def test_idle_worker_is_retired_at_once() -> None:
    launcher = FakeLauncher()
    async with pool_of(launcher) as pool:
        await pool.until_scaled()
        pool.scale(0)
        await pool.until_scaled()
        assert (now(), launcher.alive) == (1000, [])


@virtual_time
async def test_pool_without_workers_refuses_and_answers_what_waits(new_job: NewJob) -> None:
    """The last worker still runs its batch, but it will take no other: a job queued behind it would wait for ever."""
    async with pool_of(FakeLauncher(echo_after(30))) as pool:
        running, waiting = asked(pool, new_job(), new_job())
        await asyncio.sleep(1)
        pool.scale(0)
        with pytest.raises(NoWorkers):
            await waiting.answer
        with pytest.raises(NoWorkers):
            pool.submit(new_job())
        await running.answer


@virtual_time
async def test_newest_workers_are_retired_first() -> None:
    async with pool_of(FakeLauncher(), 3) as pool:
        await pool.until_scaled()
        pool.scale(2)
        await pool.until_scaled()
        assert [worker.id for worker in pool.status().workers] == ["1", "2"]
        pool.scale(3)
        await pool.until_scaled()
        assert [worker.id for worker in pool.status().workers] == ["1", "2", "4"]


@virtual_time
async def test_queue_knows_how_many_workers_share_the_clients() -> None:
    async with pool_of(FakeLauncher(), 3) as pool:
        assert pool.queue.workers == 3
        pool.scale(2)
        assert pool.queue.workers == 2


@virtual_time
async def test_worker_that_is_retired_before_its_first_step_leaves_nothing_behind() -> None:
    async with pool_of(FakeLauncher(), 2) as pool:
        pool.scale(1)
        await pool.until_scaled()
        assert [worker.id for worker in pool.status().workers] == ["1"]


@virtual_time
async def test_worker_that_dies_in_its_last_batch_is_not_restarted(new_job: NewJob) -> None:
    """Nor is the time of a restart waited for: here a second, since it is its second death in a row."""
    launcher, events = FakeLauncher(echo_after(30)), NotedEvents()
    async with pool_of(launcher, events=events) as pool:
        await asyncio.sleep(1)
        launcher.workers[0].die()
        await asyncio.sleep(1)
        (job,) = asked(pool, new_job())
        await asyncio.sleep(1)
        pool.scale(0)
        launcher.workers[1].die()
        await pool.until_scaled()
        with pytest.raises(WorkerDied):
            await job.answer
    assert (now(), len(launcher.attempts), len(events.failed)) == (1003, 2, 2)


@virtual_time
async def test_leaving_does_not_wait_for_a_model_that_is_loading() -> None:
    async with pool_of(FakeLauncher(load_seconds=lambda attempt: 1000.0)):
        await asyncio.sleep(5)
    assert now() == 1005


@virtual_time
async def test_until_scaled_tells_the_first_load_failure() -> None:
    async with pool_of(FakeLauncher(failures=[False, True]), 1) as pool:
        await pool.until_scaled()
        pool.scale(2)
        with pytest.raises(LoadFailed, match="no such weights"):
            await pool.until_scaled()


@virtual_time
async def test_until_scaled_bears_the_death_of_another_worker() -> None:
    """Scaling up in the background once ended the server when a worker happened to die meanwhile."""
    launcher = FakeLauncher(load_seconds=lambda attempt: 10.0)
    async with pool_of(launcher) as pool:
        await pool.until_scaled()
        pool.scale(2)
        asyncio.get_running_loop().call_later(5, launcher.workers[0].die)
        await pool.until_scaled()
        assert pool.status().ready_workers == 2


@virtual_time
async def test_until_scaled_ends_when_a_worker_that_loads_but_dies_is_given_up() -> None:
    slow_second = FakeLauncher(life=0.5, load_seconds=lambda attempt: 100.0 if attempt == 2 else 0.0)
    async with pool_of(slow_second, recovery=RecoveryPolicy(window=3)) as pool:
        await pool.until_scaled()
        pool.scale(2)
        with pytest.raises(WorkerDied):
            await pool.until_scaled()


@virtual_time
async def test_pool_refuses_jobs_beyond_its_queue(new_job: NewJob) -> None:
    async with pool_of(FakeLauncher(), queue_size=2) as pool:
        await pool.until_scaled()
        asked(pool, new_job(), new_job(), new_job())  # the first one runs
        with pytest.raises(QueueFull):
            pool.submit(new_job())


@virtual_time
async def test_jobs_that_wait_in_a_worker_count_as_queued_until_nobody_wants_them(new_job: NewJob) -> None:
    async with pool_of(FakeLauncher(quick), queue_size=2) as pool:
        for job in asked(pool, new_job(), new_job()):
            await job.answer
        _, in_worker, _ = asked(pool, new_job(), new_job(), new_job())
        assert len(pool.queue) == 1
        with pytest.raises(QueueFull):
            pool.submit(new_job())
        in_worker.abandon()
        asked(pool, new_job())
        assert pool.status().queued == 2


@virtual_time
async def test_status_follows_a_worker_through_its_life(new_job: NewJob) -> None:
    launcher = FakeLauncher(echo_after(10), load_seconds=lambda attempt: 5.0, failures=[False, True])
    async with pool_of(launcher) as pool:
        seen = [pool.status().workers[0].state]
        await pool.until_scaled()
        seen.append(pool.status().workers[0].state)
        asked(pool, new_job(), new_job())
        await asyncio.sleep(1)
        status = pool.status()
        assert (status.wanted, status.running, status.queued, status.queue_size) == (1, 1, 1, 100)
        assert status.workers[0].pid == 1
        launcher.workers[0].die("It was shot.")
        await asyncio.sleep(1)
        seen.append(pool.status().workers[0].state)
        assert "It was shot." in pool.status().last_failure
        pool.scale(0)
        seen.append(pool.status().workers[0].state)
    assert seen == [WorkerState.STARTING, WorkerState.READY, WorkerState.RESTARTING, WorkerState.STOPPING]


@virtual_time
async def test_events_are_reported(new_job: NewJob) -> None:
    events, launcher = NotedEvents(), FakeLauncher()
    async with pool_of(launcher, events=events, batch=BatchPolicy(size=2)) as pool:
        for job in asked(pool, new_job(), new_job(), new_job()):
            await job.answer
        launcher.workers[0].die()
        await asyncio.sleep(1)
    assert (events.batches, events.loaded, [type(error) for error in events.failed]) == (
        [2, 1],
        ["1", "1"],
        [WorkerDied],
    )
    assert [metric.name for metric in events.load_metrics] == ["Loads", "Loads"]


@virtual_time
async def test_worker_with_lanes_runs_as_many_batches_at_once(new_job: NewJob) -> None:
    launcher = FakeLauncher(echo_after(10))
    async with pool_of(launcher, lanes=2) as pool:
        jobs = asked(pool, *(new_job(str(number).encode()) for number in range(3)))
        await asyncio.sleep(5)
        assert (pool.status().running, pool.status().queued) == (2, 1)
        assert [await body(job) for job in jobs] == [b"0", b"1", b"2"]
        assert now() == 1020


@virtual_time
async def test_death_fails_the_batches_of_all_lanes(new_job: NewJob) -> None:
    launcher = FakeLauncher(echo_after(10))
    async with pool_of(launcher, lanes=3) as pool:
        jobs = asked(pool, new_job(), new_job())
        await asyncio.sleep(1)
        launcher.workers[0].die()
        for job in jobs:
            with pytest.raises(WorkerDied, match="It was shot"):
                await job.answer


@virtual_time
async def test_retired_worker_ends_the_batches_of_all_lanes_first(new_job: NewJob) -> None:
    launcher = FakeLauncher(echo_after(10))
    async with pool_of(launcher, lanes=3) as pool:
        jobs = asked(pool, new_job(b"1"), new_job(b"2"))
        await asyncio.sleep(1)
        pool.scale(0)
        assert [await body(job) for job in jobs] == [b"1", b"2"]
        await pool.until_scaled()
        assert (now(), launcher.alive) == (1010, [])


async def quick(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
    """A second for the first batch, and a hundredth for each one after it."""
    await asyncio.sleep(1 if len(worker.batches) == 1 else 0.01)
    yield result(*(body_of(job) for job in batch))


def bodies(batches: Sequence[Sequence[Buffer]]) -> list[bytes]:
    return [b"".join(batch) for batch in batches]


@pytest.mark.parametrize(
    ("jobs", "sent"),
    [
        pytest.param(b"0123", [b"01", b"23"], id="full"),
        pytest.param(b"012", [b"01"], id="not full: it waits for others in the queue"),
        pytest.param(b"012345", [b"01", b"23"], id="no more than one waits in the worker"),
    ],
)
@virtual_time
async def test_worker_has_its_next_batch_already_when_that_is_full(
    jobs: bytes, sent: list[bytes], new_job: NewJob
) -> None:
    launcher = FakeLauncher(quick)
    async with pool_of(launcher, batch=BatchPolicy(size=2)) as pool:
        for job in asked(pool, new_job(b"a"), new_job(b"b"), new_job(b"c"), new_job(b"d")):
            await job.answer  # it has shown how fast it is
        asked(pool, *(new_job(b"%c" % number) for number in jobs))
        assert bodies(launcher.workers[0].batches[2:]) == sent
        assert (pool.status().running, pool.status().queued) == (2, len(jobs) - 2)


@virtual_time
async def test_batch_does_not_wait_in_a_worker_that_takes_long(new_job: NewJob) -> None:
    """It could not be had back, while another worker might be idle sooner."""
    launcher = FakeLauncher(echo_after(1))
    async with pool_of(launcher) as pool:
        (first,) = asked(pool, new_job())
        await first.answer
        asked(pool, new_job(), new_job())
        assert (pool.status().running, pool.status().queued) == (1, 1)


@virtual_time
async def test_no_worker_has_two_batches_while_another_might_be_idle_sooner(new_job: NewJob) -> None:
    launcher = FakeLauncher(quick)
    async with pool_of(launcher, 2) as pool:
        for job in asked(pool, *(new_job() for _ in range(6))):
            await job.answer
        before = [len(worker.batches) for worker in launcher.workers]
        asked(pool, *(new_job() for _ in range(3)))
        assert [len(worker.batches) for worker in launcher.workers] == [count + 1 for count in before]
        asked(pool, new_job())
        assert [len(worker.batches) for worker in launcher.workers] == [count + 2 for count in before]


@virtual_time
async def test_idle_workers_take_turns(new_job: NewJob) -> None:
    launcher = FakeLauncher()
    async with pool_of(launcher, 3) as pool:
        await pool.until_scaled()
        for number in range(6):
            await asked(pool, new_job(str(number).encode()))[0].answer
    assert [bodies(worker.batches) for worker in launcher.workers] == [[b"0", b"3"], [b"1", b"4"], [b"2", b"5"]]


@virtual_time
async def test_jobs_that_arrive_together_go_together(new_job: NewJob) -> None:
    launcher = FakeLauncher()
    async with pool_of(launcher, batch=BatchPolicy(size=8)) as pool:
        await pool.until_scaled()
        for job in asked(pool, *(new_job(str(number).encode()) for number in range(3))):
            await job.answer
    assert bodies(launcher.workers[0].batches) == [b"012"]


@virtual_time
async def test_batch_goes_when_its_delay_ends_though_nothing_else_happens(new_job: NewJob) -> None:
    launcher = FakeLauncher()
    async with pool_of(launcher, batch=BatchPolicy(size=8, delay=60)) as pool:
        for job in asked(pool, *(new_job() for _ in range(3))):  # three clients, of which one will send again
            await job.answer
        begun = now()
        await asked(pool, new_job())[0].answer
        assert now() == begun + 60 + 1


@pytest.mark.parametrize("delay", [0.0001, 0.0009])
def test_delay_below_the_event_loops_grain_harms_no_worker(delay: float) -> None:
    """uvloop's handle for such a timer does not know its time, and to ask it failed a worker's slot."""

    failures: list[dict[str, Any]] = []

    async def ask_one_after_the_other() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
        new_job = job_maker()
        async with pool_of(FakeLauncher(echo_after(0)), batch=BatchPolicy(size=8, delay=delay)) as pool:
            for job in asked(pool, *(new_job() for _ in range(8))):  # as many clients are waited for
                await job.answer
            jobs: list[Job] = []
            for _ in range(4):
                jobs += asked(pool, new_job())
                await asyncio.sleep(0)
            assert [await body(job) for job in jobs] == [b""] * 4

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ask_one_after_the_other())
    assert failures == []


@virtual_time
async def test_time_that_a_batch_waits_in_its_worker_is_not_the_workers(new_job: NewJob) -> None:
    async def slow_at_last(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        await asyncio.sleep(0.01 if len(worker.batches) == 1 else 15)
        yield result(*(body_of(job) for job in batch))

    async with pool_of(FakeLauncher(slow_at_last), response_timeout=20) as pool:
        await asked(pool, new_job())[0].answer
        for job in asked(pool, new_job(b"1"), new_job(b"2")):
            await job.answer  # the second one 30 s after it was sent


@pytest.mark.parametrize("end", ["dies", "hangs"])
@virtual_time
async def test_batch_that_waited_in_a_worker_is_run_by_the_next_one_when_that_ends(end: str, new_job: NewJob) -> None:
    async def script(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        worker.begun = batch
        await asyncio.sleep(0.01 if len(worker.batches) == 1 else 1000)
        yield result(*(body_of(job) for job in batch))

    launcher = FakeLauncher(script, echo_after(1))
    async with pool_of(launcher, batch=BatchPolicy(size=2), response_timeout=20) as pool:
        await asked(pool, new_job())[0].answer
        jobs = asked(pool, *(new_job(str(number).encode()) for number in range(6)))
        assert bodies(launcher.workers[0].batches[1:]) == [b"01", b"23"]
        await asyncio.sleep(1)
        if end == "dies":
            launcher.workers[0].die()
        for job in jobs[:2]:
            with pytest.raises(WorkerDied if end == "dies" else ResponseTimeout):
                await job.answer
        assert [await body(job) for job in jobs[2:]] == [b"2", b"3", b"4", b"5"]
    assert bodies(launcher.workers[1].batches) == [b"23", b"45"]


@virtual_time
async def test_retired_worker_runs_the_batch_that_waits_in_it(new_job: NewJob) -> None:
    launcher = FakeLauncher(quick)
    async with pool_of(launcher) as pool:
        for job in asked(pool, new_job(), new_job()):
            await job.answer
        jobs = asked(pool, new_job(b"1"), new_job(b"2"))
        assert len(pool.queue) == 0
        pool.scale(0)
        assert [await body(job) for job in jobs] == [b"1", b"2"]


@virtual_time
async def test_next_batch_is_on_its_way_before_the_answers_to_the_last_one_are_handed_on(new_job: NewJob) -> None:
    launcher = FakeLauncher()
    async with pool_of(launcher) as pool:
        sent_when_told: list[int] = []
        first, second = asked(pool, new_job(), new_job())
        first.tell(lambda outcome: sent_when_told.append(len(launcher.workers[0].batches)))
        await second.answer
    assert sent_when_told == [2]


@virtual_time
async def test_failure_to_hand_an_answer_on_leaves_no_job_of_its_batch_unanswered(new_job: NewJob) -> None:
    def planted(outcome: object) -> None:
        raise ZeroDivisionError("planted")

    async with pool_of(FakeLauncher(), batch=BatchPolicy(size=2)) as pool:
        first, second = asked(pool, new_job(), new_job())
        first.tell(planted)
        with pytest.raises(WorkerDied):
            await second.answer
        with pytest.raises(ModelFailed, match="ZeroDivisionError: planted"):
            pool.submit(new_job())


@pytest.mark.parametrize("where", ["worker_loaded", "batch_done", "worker_failed"])
@virtual_time
async def test_error_in_our_own_code_fails_the_slot_and_hangs_nothing(where: str, new_job: NewJob) -> None:
    """An unexpected exception once ended the task of a slot, and its jobs waited for ever."""
    events = NotedEvents()

    def planted(*facts: Any) -> None:
        raise ZeroDivisionError("planted")

    setattr(events, where, planted)
    launcher = FakeLauncher(life=5.0 if where == "worker_failed" else None)
    async with pool_of(launcher, events=events) as pool:
        with suppress(ServingError):
            await asked(pool, new_job())[0].answer
        await asyncio.sleep(10)
        with pytest.raises(ModelFailed, match="ZeroDivisionError: planted"):
            pool.submit(new_job())
        assert "planted" in pool.status().cause
        delattr(events, where)
        launcher._life = None
        pool.scale(1)
        await pool.until_scaled()
        assert await body(asked(pool, new_job(b"7"))[0]) == b"7"


@virtual_time
async def test_reader_that_is_slow_makes_the_worker_wait(new_job: NewJob) -> None:
    sent: list[int] = []

    async def script(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        for number in range(100):
            sent.append(number)
            yield chunk(b"x" * 100_000)
        yield result(b"end")

    async with pool_of(FakeLauncher(script), response_timeout=20) as pool:
        (job,) = asked(pool, new_job())
        await asyncio.sleep(60)  # longer than a worker may be silent: it is not the worker who is late
        assert len(sent) < 10
        assert len(await stream(job)) == 101


@virtual_time
async def test_slow_reader_of_one_of_many_batches_holds_up_nobody_else(new_job: NewJob) -> None:
    """And it is not the worker that is late: its own batch may take longer than a worker may be silent."""

    async def script(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        if body_of(batch[0]) == b"slow":
            for _ in range(4):
                yield chunk(b"x" * 100_000)
            await worker.released.wait()
        yield result(body_of(batch[0]))

    async with pool_of(launcher := FakeLauncher(script), response_timeout=20, lanes=4) as pool:
        (slow,) = asked(pool, new_job(b"slow"))
        await slow.answer
        await asyncio.sleep(60)
        assert await body(asked(pool, new_job(b"other"))[0]) == b"other"
        assert len(await stream(slow)) == 5
        assert launcher.workers[0].held == [b"slow"]
        assert launcher.workers[0].death is None


@virtual_time
async def test_reader_who_is_far_behind_a_handler_that_cannot_wait_loses_its_stream_alone(new_job: NewJob) -> None:
    """Else the server would keep for it whatever the handler makes."""

    async def script(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        while body_of(batch[0]) == b"slow" and batch[0].wanted:
            yield chunk(b"x" * 1_000_000)
        yield result(body_of(batch[0]))

    async with pool_of(launcher := FakeLauncher(script), lanes=4) as pool:
        slow, other = asked(pool, new_job(b"slow"), new_job(b"other"))
        assert await body(other) == b"other"
        with pytest.raises(ReaderTooSlow):
            await stream(slow)
        assert launcher.workers[0].cancelled == [b"slow"]


@virtual_time
async def test_stream_that_nobody_begins_to_read_frees_the_worker_when_it_is_closed(new_job: NewJob) -> None:
    async def script(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        while batch[0].wanted and body_of(batch[0]) != b"7":
            yield chunk(b"x" * 100_000)
        yield result(b"end")

    async with pool_of(FakeLauncher(script)) as pool:
        unread, waiting = asked(pool, new_job(), new_job(b"7"))
        response = await unread.answer
        await asyncio.sleep(60)
        assert response.stream is not None
        response.stream.close()
        assert await body(waiting) == b"end"


@virtual_time
async def test_request_of_a_sequence_goes_to_its_worker_beside_one_that_is_idle_for_longer(new_job: NewJob) -> None:
    launcher = FakeLauncher()
    async with pool_of(launcher, workers=2, sequences=SequencePolicy(max_idle=60, most=2)) as pool:
        for sequence in "ab":
            (job,) = asked(pool, new_job(sequence.encode(), headers=(("ts_request_sequence_id", sequence),)))
            await job.answer
        (job,) = asked(pool, new_job(b"b", headers=(("ts_request_sequence_id", "b"),)))
        await job.answer
    assert [worker.batches for worker in launcher.workers] == [[[b"a"]], [[b"b"], [b"b"]]]


@virtual_time
async def test_batch_that_is_due_first_goes_first_though_it_is_another_workers(new_job: NewJob) -> None:
    """Each waits for the other client of its worker: the timer is the first one's."""
    launcher = FakeLauncher()
    sequences = SequencePolicy(max_idle=60, most=4)
    async with pool_of(launcher, workers=2, sequences=sequences, batch=BatchPolicy(size=2, delay=10)) as pool:
        jobs = {name: new_job(name.encode(), headers=(("ts_request_sequence_id", name),)) for name in "abcd"}
        asked(pool, *jobs.values())
        await asyncio.gather(*(job.answer for job in jobs.values()))
        begun = now()
        first = new_job(b"c", headers=(("ts_request_sequence_id", "c"),))
        asked(pool, first)
        await asyncio.sleep(5)
        second = new_job(b"a", headers=(("ts_request_sequence_id", "a"),))
        asked(pool, second)
        await first.answer
        assert now() == begun + 11  # it runs for a second
        await second.answer
        assert now() == begun + 16


@virtual_time
async def test_sequences_of_a_worker_that_is_to_go_need_not_wait_until_it_has(new_job: NewJob) -> None:
    launcher = FakeLauncher(echo_after(1.0), echo_after(100.0), echo_after(1.0))
    async with pool_of(launcher, workers=2, sequences=SequencePolicy(max_idle=60, most=3)) as pool:
        (first,) = asked(pool, new_job(b"a", headers=(("ts_request_sequence_id", "a"),)))
        (long,) = asked(pool, new_job(b"b", headers=(("ts_request_sequence_id", "b"),)))
        await first.answer
        pool.scale(1)
        assert await body(long) == b"b"
        (other,) = asked(pool, new_job(b"b", headers=(("ts_request_sequence_id", "b"),)))
        assert await body(other) == b"b"
    assert [worker.batches for worker in launcher.workers] == [[[b"a"], [b"b"]], [[b"b"]]]


@pytest.mark.parametrize(("lanes", "size", "room"), [(1, 1, 1), (1, 3, 3), (2, 2, 4)])
@virtual_time
async def test_job_tickets_are_for_as_many_jobs_as_could_run_now(
    lanes: int, size: int, room: int, new_job: NewJob
) -> None:
    launcher = FakeLauncher(load_seconds=lambda attempt: 5.0)
    async with pool_of(launcher, job_tickets=True, lanes=lanes, batch=BatchPolicy(size=size, delay=1)) as pool:
        with pytest.raises(NoIdleWorker):
            pool.submit(new_job())
        assert pool.status().refused == 1
        await asyncio.sleep(6)
        for _ in range(2):
            jobs = asked(pool, *(new_job() for _ in range(room)))
            with pytest.raises(NoIdleWorker):
                pool.submit(new_job())
            await asyncio.gather(*(job.answer for job in jobs))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.none() | st.integers(1, 5)),
        st.tuples(st.just("pass"), st.floats(0, 5)),
        st.tuples(st.just("die"), st.integers(0, 5)),
        st.tuples(st.just("leave"), st.integers(0, 20)),
        st.tuples(st.just("scale"), st.integers(0, 3)),
    ),
    max_size=30,
)


IN_SEQUENCES = {"sequences": SequencePolicy(max_idle=2.0, timeout=20.0, most=2, most_waiting=3)}


@given(
    steps=STEPS,
    failures=st.lists(st.booleans(), max_size=6),
    size=st.integers(1, 3),
    facts=st.sampled_from([{}, {"job_tickets": True}, {"lanes": 2}, IN_SEQUENCES, {**IN_SEQUENCES, "lanes": 2}]),
)
@virtual_time
async def test_every_job_gets_exactly_one_answer_whatever_happens(
    steps: list[tuple[str, Any]], failures: list[bool], size: int, facts: dict[str, Any]
) -> None:
    launcher, new_job = FakeLauncher(failures=failures), job_maker()
    jobs: list[Job] = []
    policy = BatchPolicy(size=size, delay=0.5)
    async with pool_of(launcher, batch=policy, recovery=RecoveryPolicy(window=3), queue_size=8, **facts) as pool:
        for kind, what in steps:
            await happen(pool, launcher, jobs, new_job, kind, what)
        await asyncio.sleep(100)
        assert all(job.answer.done() for job in jobs)
    assert launcher.alive == []
    assert all(job.answer.cancelled() or is_own_answer(job) for job in jobs)
    assert pool.status().running == pool.status().queued == 0


async def happen(
    pool: WorkerPool, launcher: FakeLauncher, jobs: list[Job], new_job: NewJob, kind: str, what: Any
) -> None:
    match kind:
        case "ask":
            sequence = (("ts_request_sequence_id", "abc"[len(jobs) % 3]),)
            job = new_job(str(len(jobs)).encode(), within=what, headers=sequence)
            with suppress(Unavailable):
                pool.submit(job)
                jobs.append(job)
        case "pass":
            await asyncio.sleep(what)
        case "die" if launcher.alive:
            launcher.alive[what % len(launcher.alive)].die()
        case "leave" if jobs:
            jobs[what % len(jobs)].abandon()
        case "scale":
            pool.scale(what)


def is_own_answer(job: Job) -> bool:
    if (error := job.answer.exception()) is not None:
        return isinstance(error, ServingError)
    return job.answer.result().body == body_of(job)


@virtual_time
async def test_batch_says_why_it_went(new_job: NewJob) -> None:
    """Two clients are known and one of them comes back: it waits for the other in vain."""
    events = NotedEvents()
    async with pool_of(FakeLauncher(), events=events, batch=BatchPolicy(size=3, delay=0.5)) as pool:
        for jobs in (
            [new_job(), new_job(), new_job()],
            [new_job(verb=Verb.EXPLAIN)],
            [new_job(), new_job(), new_job()],
            [new_job(), new_job()],
            [new_job(), new_job()],
        ):
            for job in asked(pool, *jobs):
                await job.answer
    assert events.releases == ["full", "alone", "full", "delay", "clients"]


@virtual_time
async def test_work_for_nobody_is_told_once_and_only_of_what_runs(new_job: NewJob) -> None:
    events = NotedEvents()
    async with pool_of(FakeLauncher(), events=events) as pool:
        left, late, waiting, answered = asked(pool, new_job(), new_job(), new_job(), new_job())
        await asyncio.sleep(0.5)
        left.abandon()
        waiting.abandon()
        await asyncio.sleep(1.0)
        late.fail(DeadlineExceeded(1.5))
        await answered.answer
    assert events.wasted == ["client_left", "deadline"]


@virtual_time
async def test_death_of_a_worker_is_no_wasted_work(new_job: NewJob) -> None:
    events, launcher = NotedEvents(), FakeLauncher()
    async with pool_of(launcher, events=events) as pool:
        (job,) = asked(pool, new_job())
        await asyncio.sleep(0.5)
        launcher.workers[0].die()
        with pytest.raises(WorkerDied):
            await job.answer
    assert events.wasted == []

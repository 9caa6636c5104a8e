"""One request in flight: it gets one answer, and whoever holds it hears once that nobody waits any more."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest

from tests.conftest import Holder, NewJob, stream_of
from tests.virtual_time import virtual_time
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.requests import InferenceResponse, Verb
from torchserve_lite.errors import DeadlineExceeded, ServingError, WorkerDied

ANSWER = InferenceResponse(b"answer")
DEATH = WorkerDied("It was shot.")

Act = Callable[[Job], None]
SETTLING = [
    pytest.param(lambda job: job.succeed(ANSWER), id="succeed"),
    pytest.param(lambda job: job.fail(DEATH), id="fail"),
    pytest.param(lambda job: job.abandon(), id="abandon"),
]


def held(job: Job) -> list[Job]:
    """What the job's holder is told."""
    told: list[Job] = []
    job.holder = Holder(told.append)
    return told


async def outcome(job: Job) -> object:
    try:
        return await job.answer
    except ServingError as error:
        return error


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        pytest.param(lambda job: job.succeed(ANSWER), ANSWER, id="succeed"),
        pytest.param(lambda job: job.fail(DEATH), DEATH, id="fail"),
    ],
)
@pytest.mark.parametrize("later", SETTLING)
@virtual_time
async def test_first_answer_counts(act: Act, expected: object, later: Act, new_job: NewJob) -> None:
    job = new_job()
    act(job)
    later(job)
    assert await outcome(job) is expected


@pytest.mark.parametrize("later", SETTLING)
@pytest.mark.parametrize("act", SETTLING)
@virtual_time
async def test_holder_is_told_once(act: Act, later: Act, new_job: NewJob) -> None:
    job = new_job()
    told = held(job)
    act(job)
    later(job)
    assert told == [job]
    assert not job.wanted


@virtual_time
async def test_waiting_for_an_abandoned_job_ends(new_job: NewJob) -> None:
    job = new_job()
    job.abandon()
    with pytest.raises(asyncio.CancelledError):
        await job.answer


@pytest.mark.parametrize(("verb", "batchable"), [(Verb.PREDICT, True), (Verb.EXPLAIN, False), (Verb.DESCRIBE, False)])
@virtual_time
async def test_only_predictions_share_a_batch(verb: Verb, batchable: bool, new_job: NewJob) -> None:
    assert new_job(verb=verb).batchable is batchable


@virtual_time
async def test_job_is_wanted_until_its_stream_has_ended(new_job: NewJob) -> None:
    job = new_job()
    told = held(job)
    job.add_piece(InferenceResponse(b"1", status=201))
    assert (job.wanted, told) == (True, [])
    job.succeed(InferenceResponse(b"2"))
    assert (job.wanted, told) == (False, [job])
    assert (await job.answer).status == 201


@virtual_time
async def test_stream_gives_its_pieces_in_order(new_job: NewJob) -> None:
    job = new_job()
    for piece in (b"1", b"2", b"3"):
        job.add_piece(InferenceResponse(piece))
    job.succeed(InferenceResponse(b"4"))
    first = await job.answer
    assert first.stream is not None
    assert [first.body, *[piece async for piece in first.stream]] == [b"1", b"2", b"3", b"4"]


@virtual_time
async def test_what_a_client_sent_is_free_when_the_stream_of_its_answer_has_ended(new_job: NewJob) -> None:
    """Job and stream knew one another, and went with the next run of the garbage collector."""
    body = memoryview(bytearray(10))
    sent, job = weakref.ref(body), new_job(body)
    job.add_piece(InferenceResponse(b"1"))
    job.succeed(InferenceResponse(b"2"))
    gc.disable()
    try:
        del body, job
        assert sent() is None
    finally:
        gc.enable()


@virtual_time
async def test_stream_ends_with_the_failure(new_job: NewJob) -> None:
    job = new_job()
    job.add_piece(InferenceResponse(b"1"))
    job.add_piece(InferenceResponse(b"2"))
    job.fail(DEATH)
    pieces = await stream_of(job)
    assert await anext(pieces) == b"2"
    with pytest.raises(WorkerDied):
        await anext(pieces)


@virtual_time
async def test_reader_that_leaves_a_stream_abandons_the_job(new_job: NewJob) -> None:
    """The worker went on for a client that had gone, and every piece was kept for it."""
    job = new_job()
    told = held(job)
    job.add_piece(InferenceResponse(b"1"))
    job.add_piece(InferenceResponse(b"2"))
    async with await stream_of(job) as pieces:
        assert await anext(pieces) == b"2"
    assert told == [job]
    job.add_piece(InferenceResponse(b"3"))  # comes from the worker before it has heard of it
    assert not job.wanted


@virtual_time
async def test_piece_after_another_answer_is_ignored(new_job: NewJob) -> None:
    job = new_job()
    job.fail(DeadlineExceeded(1))
    job.add_piece(InferenceResponse(b"1"))
    assert not job.wanted
    assert isinstance(await outcome(job), DeadlineExceeded)


@virtual_time
async def test_stream_that_was_never_read_abandons_its_job_when_it_is_closed(new_job: NewJob) -> None:
    """An async generator that was never begun once ran no ``finally``, and the worker went on for nobody."""
    job = new_job()
    told = held(job)
    job.add_piece(InferenceResponse(b"1"))
    stream = await stream_of(job)
    stream.close()
    stream.close()
    assert (told, job.wanted) == ([job], False)


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda job, stream: stream.close(), id="reader goes"),
        pytest.param(lambda job, stream: job.abandon(), id="job is abandoned"),
        pytest.param(lambda job, stream: job.fail(DEATH), id="job fails"),
        pytest.param(lambda job, stream: anext(stream), id="reader reads"),
    ],
)
@virtual_time
async def test_writer_waits_for_a_slow_reader_and_no_longer(leave: Callable[..., object], new_job: NewJob) -> None:
    job = new_job()
    job.add_piece(InferenceResponse(b"1"))
    stream = await stream_of(job)
    assert not job.behind
    job.add_piece(InferenceResponse(b"x" * 1_000_000))
    told: list[bool] = []
    job.when_read(lambda: told.append(job.behind))
    assert (job.behind, told) == (True, [])
    reading = leave(job, stream)
    if asyncio.iscoroutine(reading):
        await reading
    job.abandon()
    assert told == [False]

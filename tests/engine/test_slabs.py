"""Large requests lie in slabs: their workers take them from there, and write the answers over them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.engine.serving import Served, served
from tests.gate import Gate
from torchserve_lite.core.models import BatchPolicy
from torchserve_lite.core.requests import Part
from torchserve_lite.errors import WorkerKilled
from torchserve_lite.ipc.slabs import Slabs, slabs

PROCESSES = ["forked", "shared", "exec"]
TEXT = b"echo " + bytes(range(33, 127)) * 3000


def received(model: Served, body: bytes) -> memoryview:
    """The body where a request's body is received."""
    memory = model.engine.memory_for(len(body))
    assert isinstance(memory, memoryview)
    memory[:] = body
    return memory


async def begin_of_next(shared: Slabs, length: int) -> int:
    """Of a slab that is made and given up at once."""
    await asyncio.sleep(0)  # the answer that we have just waited for is kept until then
    slab = shared.new(length)
    assert slab is not None
    begin, _ = shared.place_of(slab) or (0, 0)
    return begin


@pytest.mark.parametrize("launcher", PROCESSES)
async def test_answer_is_written_over_its_request(launcher: str) -> None:
    async with served(launcher) as model:
        body = received(model, TEXT)
        answer = await model.ask(body)
        assert answer == TEXT
        assert isinstance(answer, memoryview)
        assert answer.obj is body.obj


async def test_request_in_a_slab_is_answered_by_a_thread_of_the_server() -> None:
    async with served("inline") as model:
        assert await model.ask(received(model, TEXT)) == TEXT


async def test_requests_of_one_batch_get_their_own_answers() -> None:
    texts = [b"echo " + bytes([number]) * (40_000 + number) for number in range(8)]
    async with served("forked", batch=BatchPolicy(size=8, delay=5)) as model:
        jobs = [model.submit(received(model, text)) for text in texts]
        assert [(await job.answer).body for job in jobs] == texts
        assert len(model.events.done) == 1


async def test_short_answer_to_a_long_request_and_a_long_one_to_a_short_request_come_over_the_link() -> None:
    async with served("forked") as model:
        short = await model.ask(received(model, b"count " + b" " * 100_000))
        assert not isinstance(short, memoryview)
        assert await model.ask(bytes(TEXT)) == TEXT


async def test_slab_is_free_when_its_request_is_over() -> None:
    with slabs() as shared:
        async with served("forked", engine={"slabs": shared}) as model:
            before = await begin_of_next(shared, len(TEXT))
            await model.ask(received(model, TEXT))
            assert await begin_of_next(shared, len(TEXT)) == before


async def test_slab_of_a_request_that_nobody_waits_for_is_no_others_while_a_worker_has_it(tmp_path: Path) -> None:
    """The worker may still read it, or write its answer there."""
    gate = Gate(tmp_path)
    with slabs() as shared:
        async with served("forked", "gated", engine={"slabs": shared}) as model:
            parts = (Part("body", gate.body), Part("filler", received(model, TEXT)))
            begin, _ = shared.place_of(parts[1].data) or (0, 0)
            job = model.submit(b"", parts=parts)
            await gate.reached()
            job.abandon()
            del job, parts
            assert await begin_of_next(shared, len(TEXT)) != begin
            gate.open()
            await model.ask(b"go")
            assert await begin_of_next(shared, len(TEXT)) == begin


async def test_slab_of_a_dead_workers_request_is_free_again_and_the_next_request_works() -> None:
    with slabs() as shared:
        async with served("forked", engine={"slabs": shared}) as model:
            before = await begin_of_next(shared, len(TEXT))
            parts = (Part("body", b"signal SIGKILL"), Part("filler", received(model, TEXT)))
            job = model.submit(b"", parts=parts)
            with pytest.raises(WorkerKilled):
                await job.answer
            del job, parts
            assert await model.ask(received(model, TEXT)) == TEXT
            assert await begin_of_next(shared, len(TEXT)) == before

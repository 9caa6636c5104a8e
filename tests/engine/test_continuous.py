"""Continuous batching with real workers: who comes late joins, who leaves makes room."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import stream_of
from tests.engine.serving import pieces_of, served
from torchserve_lite.core.models import BatchPolicy, SequencePolicy
from torchserve_lite.errors import PredictionFailed, TooManySequences

CONTINUOUS: dict[str, Any] = {"continuous": True, "lanes": 2, "batch": BatchPolicy(size=2, delay=10.0)}


@pytest.mark.parametrize("launcher", ["forked", "shared", "inline"])
async def test_late_request_joins_one_that_runs_and_both_end_at_their_own_step(launcher: str) -> None:
    async with served(launcher, "continuous", **CONTINUOUS) as model:
        long = model.submit(b"forever")
        async with await stream_of(long) as steps:
            assert await pieces_of(model.submit(b"3")) == [b"2 "] * 3
            await anext(steps)
        assert await pieces_of(model.submit(b"1")) == [b"1 "]  # whose place the first has left; nobody else is there


async def test_request_beyond_the_places_waits_for_one() -> None:
    async with served("forked", "continuous", **CONTINUOUS) as model:
        running = [model.submit(b"forever") for _ in range(2)]
        streams = [await stream_of(job) for job in running]
        waiting = model.submit(b"2")
        await anext(aiter(streams[0]))
        assert model.engine.status(model.spec.key).queued == 1
        streams[0].close()
        assert await pieces_of(waiting) == [b"2 "] * 2
        streams[1].close()


async def test_failure_ends_those_that_were_at_work_and_the_worker_lives() -> None:
    async with served("forked", "continuous", **CONTINUOUS) as model:
        pids = model.pids
        async with await stream_of(model.submit(b"forever")) as steps:
            with pytest.raises(PredictionFailed):
                await pieces_of(model.submit(b"fail"))
            with pytest.raises(PredictionFailed):
                [piece async for piece in steps]
        assert await pieces_of(model.submit(b"1")) == [b"1 "]
        assert model.pids == pids


async def test_sequences_join_a_continuous_handler_and_end_by_its_header() -> None:
    """Both at once: one request of a sequence at a time, those of several in one call."""
    policy = SequencePolicy(max_idle=60.0, most=2, most_waiting=10)
    async with served("forked", "conversing", sequences=policy, **CONTINUOUS) as model:

        async def told(sequence: str, word: str) -> str:
            named = (("ts_request_sequence_id", sequence),)
            return b"".join(await pieces_of(model.submit(word.encode(), headers=named))).decode()

        answers = await asyncio.gather(told("a", "1"), told("a", "2"), told("b", "3"))
        assert [answer.partition(":")[2] for answer in answers] == ["1", "1,2", "3"]
        with pytest.raises(TooManySequences):
            await told("c", "4")
        await told("a", "end")
        assert (await told("c", "4")).endswith(":4")

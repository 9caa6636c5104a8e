"""Continuous batching with real workers: who comes late joins, who leaves makes room."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import stream_of
from tests.engine.serving import served
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import BatchPolicy
from torchserve_lite.errors import PredictionFailed

CONTINUOUS: dict[str, Any] = {"continuous": True, "lanes": 2, "batch": BatchPolicy(size=2, delay=10.0)}


async def whole(job: Job) -> list[bytes]:
    first = await job.answer
    pieces = [bytes(first.body)]
    if first.stream is not None:
        async with first.stream as rest:
            pieces += [bytes(piece) async for piece in rest]
    return pieces


@pytest.mark.parametrize("launcher", ["forked", "shared", "inline"])
async def test_late_request_joins_one_that_runs_and_both_end_at_their_own_step(launcher: str) -> None:
    async with served(launcher, "continuous", **CONTINUOUS) as model:
        long = model.submit(b"forever")
        async with await stream_of(long) as steps:
            assert await whole(model.submit(b"3")) == [b"2 "] * 3
            await anext(steps)
        assert await whole(model.submit(b"1")) == [b"1 "]  # whose place the first has left; nobody else is there


async def test_request_beyond_the_places_waits_for_one() -> None:
    async with served("forked", "continuous", **CONTINUOUS) as model:
        running = [model.submit(b"forever") for _ in range(2)]
        streams = [await stream_of(job) for job in running]
        waiting = model.submit(b"2")
        await anext(aiter(streams[0]))
        assert model.engine.status(model.spec.key).queued == 1
        streams[0].close()
        assert await whole(waiting) == [b"2 "] * 2
        streams[1].close()


async def test_failure_ends_those_that_were_at_work_and_the_worker_lives() -> None:
    async with served("forked", "continuous", **CONTINUOUS) as model:
        pids = model.pids
        async with await stream_of(model.submit(b"forever")) as steps:
            with pytest.raises(PredictionFailed):
                await whole(model.submit(b"fail"))
            with pytest.raises(PredictionFailed):
                [piece async for piece in steps]
        assert await whole(model.submit(b"1")) == [b"1 "]
        assert model.pids == pids

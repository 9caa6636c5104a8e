"""What becomes of single calls of a running batch, on every launcher: each of the two requests of a batch has its own
fate while the handler waits, and then the batch goes on or its worker is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.engine.serving import Served, served
from tests.gate import Gate
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import BatchPolicy
from torchserve_lite.core.requests import Envelope, Part
from torchserve_lite.errors import InvalidInput, ServingError, WorkerKilled

FATES = ["early end", "stream", "cancel"]


async def end_of(job: Job) -> str:
    """How a job ended: its whole answer, or the failure in its place."""
    try:
        response = await job.answer
        body = bytes(response.body)
        if response.stream is not None:
            async with response.stream as pieces:
                body += b"".join([piece async for piece in pieces])
    except asyncio.CancelledError:
        return "cancelled"
    except ServingError as error:
        return type(error).__name__
    return body.decode()


async def running(model: Served, gate: Gate, fate: str) -> tuple[Job, Job]:
    """A batch of two that the handler has begun; the second request has met its fate already."""
    first = model.submit(str(gate.path).encode())
    if fate == "early end":
        second = model.submit(b"", parts=(Part("body", b"{"),), envelope=Envelope.KSERVE)
    else:
        second = model.submit(b"second")
    await gate.reached()
    if fate == "early end":
        with pytest.raises(InvalidInput):
            await second.answer
    elif fate == "stream":
        assert (await first.answer).body == b"begun"
    else:
        second.abandon()
    return first, second


ENDS = {"early end": "InvalidInput", "stream": "done", "cancel": "cancelled"}


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("launcher", ["inline", "forked", "shared", "exec"])
async def test_each_call_of_a_batch_ends_in_its_own_way(launcher: str, fate: str, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with served(launcher, "gated", batch=BatchPolicy(size=2)) as model:
        first, second = await running(model, gate, fate)
        gate.open()
        assert (await end_of(first), await end_of(second)) == ("begundone", ENDS[fate])
        assert await model.ask(b"go") == b"done"
        assert model.events.failures == []


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("launcher", ["forked", "shared", "exec"])
async def test_kill_in_the_middle_fails_the_calls_that_are_open_and_no_other(
    launcher: str, fate: str, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    async with served(launcher, "gated", batch=BatchPolicy(size=2)) as model:
        first, second = await running(model, gate, fate)
        waiting = model.submit(b"go")
        os.kill(model.pids[0] or 0, signal.SIGKILL)
        killed = WorkerKilled.__name__
        assert (await end_of(first), await end_of(second)) == (killed, {**ENDS, "stream": killed}[fate])
        assert await end_of(waiting) == "done"  # by the next worker
        gate.open()

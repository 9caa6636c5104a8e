"""Coroutine handlers with real workers: who leaves is not worked for, and who reads slowly holds up nobody else."""

from __future__ import annotations

import json
from typing import Any

from tests.conftest import stream_of
from tests.engine.serving import Served, served


async def told(model: Served) -> Any:
    return json.loads(bytes(await model.ask(b"what")))


async def stopped(model: Served, *names: str) -> None:
    """Waits until the handler says that these have been stopped."""
    while sorted((await told(model))["left"]) != sorted(names):
        pass


async def test_coroutine_and_generator_are_stopped_when_their_clients_leave() -> None:
    async with served("forked", "many_at_once", lanes=8) as model:
        waiting, large = model.submit(b"wait"), model.submit(b"large")
        pieces = await stream_of(large)
        waiting.abandon()
        await stopped(model, "wait")
        pieces.close()
        await stopped(model, "large", "wait")
        assert model.events.failures == []


async def test_generator_waits_for_its_own_reader_while_others_are_answered() -> None:
    async with served("forked", "many_at_once", lanes=8) as model:
        async with await stream_of(model.submit(b"large")) as pieces:
            made = [(await told(model))["made"] for _ in range(200)]
            assert made[-1] == made[-50] < 60  # all that the link holds, and no more
            for _ in range(100):
                await anext(pieces)
            assert (await told(model))["made"] > 60
        await stopped(model, "large")

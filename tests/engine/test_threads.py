"""A handler may stream from threads that it starts: frames stay whole, and pieces reach whom they are for, in order."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.engine.serving import Served, pieces_of, served
from torchserve_lite.core.models import BatchPolicy

LAUNCHERS = ["forked", "shared", "exec", "inline"]


def numbered(pieces: list[bytes]) -> list[tuple[object, int]]:
    """Who sent each line, and its number; a line that is not whole is no JSON."""
    *lines, end = b"".join(pieces).split(b"\n")
    assert end == b"end"
    return [(who, number) for who, number, _ in map(json.loads, lines)]


@pytest.mark.parametrize("launcher", LAUNCHERS)
async def test_two_threads_of_a_handler_may_send_at_once(launcher: str) -> None:
    async with served(launcher, "threads", batch=BatchPolicy(size=2, delay=60.0)) as model:
        both = [model.submit(b"both"), model.submit(b"both")]
        for index, pieces in enumerate(await asyncio.gather(*map(pieces_of, both))):
            assert numbered(pieces) == [(index, number) for number in range(60)]
        assert model.events.failures == []


@pytest.mark.parametrize("launcher", LAUNCHERS)
async def test_threads_of_concurrent_batches_may_send_at_once(launcher: str) -> None:
    async with served(launcher, "async_threads", lanes=3) as model:
        streams = {who: pieces_of(model.submit(who.encode())) for who in "abc"}
        for who, pieces in zip(streams, await asyncio.gather(*streams.values()), strict=True):
            assert numbered(pieces) == [(who, number) for number in range(60)]
        assert model.events.failures == []


async def left_behind(model: Served) -> tuple[str, list[bytes]]:
    """The id of a request whose handler left a thread behind, and what the next request got."""
    name = bytes(await model.ask(b"leave")).decode()
    return name, await pieces_of(model.submit(b"meet"))


@pytest.mark.parametrize("launcher", LAUNCHERS)
async def test_thread_that_outlives_its_batch_is_told_and_disturbs_no_other_client(launcher: str) -> None:
    """What it had to send once went to the client of the next batch."""
    async with served(launcher, "threads") as model:
        name, pieces = await left_behind(model)
        refusal = f"ValueError: Request {name} is not being answered: nothing can be sent to it."
        assert pieces == [b"own", refusal.encode()]
        assert model.events.failures == []

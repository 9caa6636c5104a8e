"""Whose turn it is to start: in virtual time, with workers that take 10 s to load."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.conftest import spec_of
from tests.virtual_time import virtual_time
from torchserve_lite.core.models import ModelSpec, RecoveryPolicy
from torchserve_lite.engine.interface import Worker
from torchserve_lite.engine.restarts import Restarts
from torchserve_lite.engine.slot import Slot
from torchserve_lite.engine.starts import Starts
from torchserve_lite.errors import LoadFailed

from .fake_workers import FakeWorker, echo_after

SPEC = spec_of()


class Loads:
    """A launcher that notes which slots load at the same time."""

    def __init__(self) -> None:
        self.loading: list[str] = []
        self.seen: list[tuple[str, ...]] = []

    @asynccontextmanager
    async def __call__(self, spec: ModelSpec, slot: Slot) -> AsyncIterator[Worker]:
        self.loading.append(slot.id)
        self.seen.append(tuple(self.loading))
        try:
            await asyncio.sleep(10)
            if slot.id.startswith("broken"):
                raise LoadFailed("no such weights")
        finally:
            self.loading.remove(slot.id)
        yield FakeWorker(echo_after(1), 1)


def slots(kind: str) -> Iterator[Slot]:
    """Those of broken models have failed to load before."""
    for number in itertools.count():
        slot = Slot(f"{kind}{number}", None, Restarts(RecoveryPolicy()))
        if kind == "broken":
            slot.restarts.failed(0.0, lived=0.0)
        yield slot


async def start(starts: Starts, slot: Slot) -> None:
    with suppress(LoadFailed):
        async with starts(SPEC, slot):
            pass


@virtual_time
async def test_many_workers_start_a_few_at_a_time() -> None:
    loads = Loads()
    starts = Starts(loads, at_once=3)
    await asyncio.gather(*(start(starts, slot) for slot in itertools.islice(slots("w"), 10)))
    assert (len(loads.seen), max(map(len, loads.seen))) == (10, 3)


@virtual_time
async def test_a_worker_that_serves_holds_no_place() -> None:
    starts = Starts(Loads(), at_once=1)
    first, second = itertools.islice(slots("w"), 2)
    async with starts(SPEC, first), starts(SPEC, second) as worker:
        assert worker.pid == 1


@virtual_time
async def test_crash_loops_are_tried_one_at_a_time_and_behind_healthy_starts() -> None:
    loads = Loads()
    starts = Starts(loads, at_once=3)
    broken, healthy = slots("broken"), slots("w")
    async with asyncio.TaskGroup() as tasks:
        for slot in (*itertools.islice(healthy, 2), *itertools.islice(broken, 3)):
            tasks.create_task(start(starts, slot))
        await asyncio.sleep(15)  # the first broken one has begun
        tasks.create_task(start(starts, next(healthy)))
    assert loads.seen == [("w0",), ("w0", "w1"), ("broken0",), ("broken0", "w2"), ("broken1",), ("broken2",)]


@pytest.mark.parametrize("kind", ["w", "broken"])
@pytest.mark.parametrize("moment", ["while it waits", "while it loads"])
@virtual_time
async def test_start_that_is_cancelled_gives_its_turn_to_the_next(kind: str, moment: str) -> None:
    loads = Loads()
    starts = Starts(loads, at_once=1)
    first, second, third = itertools.islice(slots(kind), 3)
    tasks = [asyncio.create_task(start(starts, slot)) for slot in (first, second)]
    await asyncio.sleep(1)
    tasks[1 if moment == "while it waits" else 0].cancel()
    await asyncio.gather(start(starts, third), *tasks, return_exceptions=True)
    assert (third.id,) in loads.seen


@pytest.mark.parametrize(
    ("lived", "looping"), [pytest.param(0.0, True, id="never loaded"), pytest.param(3.0, False, id="first death")]
)
def test_crash_loop_begins_with_a_load_that_fails_and_not_with_a_first_death(lived: float, looping: bool) -> None:
    restarts = Restarts(RecoveryPolicy())
    restarts.failed(0.0, lived)
    assert restarts.looping is looping


def test_crash_loop_begins_with_the_second_death_in_a_row_and_ends_with_an_answer() -> None:
    restarts = Restarts(RecoveryPolicy())
    restarts.failed(0.0, 1.0)
    restarts.failed(1.0, 1.0)
    assert restarts.looping
    restarts.proven()
    assert not restarts.looping

"""The engine's own end, with fake workers in virtual time: a deadline that all pools share."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import KEY, NO_SLABS, NewJob, spec_of
from tests.virtual_time import virtual_time
from torchserve_lite.config.settings import WorkerConfig
from torchserve_lite.core.shutdown import Shutdown
from torchserve_lite.engine.devices import Devices
from torchserve_lite.engine.interface import ModelFiles
from torchserve_lite.engine.local import LocalEngine
from torchserve_lite.errors import DrainTimeout, WorkerDied

from .fake_workers import FakeLauncher, echo_after


def engine_of(launcher: FakeLauncher, shutdown: Shutdown) -> LocalEngine:
    engine = LocalEngine(
        WorkerConfig(), lambda spec: ModelFiles("."), Devices(0), cores=1, slabs=NO_SLABS, shutdown=shutdown
    )
    engine._launch = launcher
    return engine


@virtual_time
async def test_batch_that_somebody_waits_for_is_answered_before_the_engine_ends(new_job: NewJob) -> None:
    launcher, job = FakeLauncher(echo_after(15)), new_job(b"7")
    async with engine_of(launcher, Shutdown(20)) as engine:
        await engine.load(spec_of(), 1)
        engine.submit(job)
        await asyncio.sleep(1)
    assert ((await job.answer).body, launcher.alive) == (b"7", [])


@pytest.mark.parametrize(("begun_before", "seconds"), [(0, 20), (12, 8), (30, 0.5)])
@virtual_time
async def test_workers_are_killed_at_the_deadline_that_the_stop_has(
    begun_before: float, seconds: float, new_job: NewJob
) -> None:
    """Other parts may have used up some of the time, or all of it."""
    launcher, job, shutdown = FakeLauncher(echo_after(3000)), new_job(), Shutdown(20)
    async with engine_of(launcher, shutdown) as engine:
        await engine.load(spec_of(), 1)
        engine.submit(job)
        await asyncio.sleep(1)
        if begun_before:
            shutdown.begin()
            await asyncio.sleep(begun_before)
        left = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - left == seconds
    assert launcher.alive == []
    with pytest.raises(WorkerDied):
        await job.answer


@pytest.mark.parametrize("workers", [1, 3])
@virtual_time
async def test_scaling_while_a_model_is_replaced_holds_for_the_new_one(workers: int) -> None:
    """It went to the old workers, which were about to leave."""
    launcher = FakeLauncher(load_seconds=lambda attempt: 0 if attempt <= 2 else 10)
    async with engine_of(launcher, Shutdown()) as engine, asyncio.TaskGroup() as tasks:
        await engine.load(spec_of(), 2)
        tasks.create_task(engine.load(spec_of(), 2))
        await asyncio.sleep(5)
        await engine.scale(KEY, workers)
        await asyncio.sleep(100)
        assert len(engine.status(KEY).workers) == len(launcher.alive) == workers


@pytest.mark.parametrize("seconds", [15, 3000])
@virtual_time
async def test_unloading_waits_also_for_workers_that_have_been_replaced_before(seconds: float, new_job: NewJob) -> None:
    """They went on behind, until the server ended."""
    launcher, job = FakeLauncher(echo_after(seconds)), new_job(b"7")
    async with engine_of(launcher, Shutdown()) as engine:
        await engine.load(spec_of(), 1)
        engine.submit(job)
        await asyncio.sleep(1)
        replacing = asyncio.create_task(engine.load(spec_of(), 1))
        await asyncio.sleep(1)
        replacing.cancel()
        if seconds == 15:
            await engine.unload(KEY, 100)
            assert (await job.answer).body == b"7"
        else:
            with pytest.raises(DrainTimeout):
                await engine.unload(KEY, 100)
        assert launcher.alive == []

"""The kill matrix: how workers are killed x what they are doing x how they were started, on real servers.

Only the requests of the batch that a worker runs fail, each with the cause; nobody is answered twice or not at all;
what waits behind is answered by the next worker; a stream does not end as if it were whole.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.e2e.server import PATIENCE, Server, running
from tests.faults.staged import Asked, Stages, Visit, staged

PLAIN = "batchSize: 2\nmaxBatchDelay: 10\nminWorkers: 1\nmaxWorkers: 4\nautoscale: false\n"
PATIENT, IMPATIENT = "patient", "impatient"
MODELS = {PATIENT: PLAIN, IMPATIENT: PLAIN + "responseTimeout: 2\n"}


@dataclass(frozen=True)
class Kill:
    """``cause`` and ``status``: what the requests of the batch are told."""

    name: str
    deed: Callable[[Visit], object]
    status: int
    cause: str
    while_loading: str = ""
    model: str = PATIENT
    survives: bool = False


def sends(number: signal.Signals) -> Callable[[Visit], object]:
    return lambda visit: os.kill(visit.pid, number)


KILLS = [
    Kill("SIGKILL", sends(signal.SIGKILL), 507, "was ended by SIGKILL while at {stage}"),
    Kill("SIGSEGV", sends(signal.SIGSEGV), 500, "was ended by SIGSEGV while at {stage}"),
    Kill("exit", lambda visit: visit.order("exit 3"), 500, "exited with code 3 while at {stage}"),
    Kill("memory", lambda visit: visit.order("memory"), 507, "Out of resources", "MemoryError", survives=True),
    Kill(
        "SIGSTOP",
        sends(signal.SIGSTOP),
        500,
        "no answer within responseTimeout=2 s while at {stage}",
        r"did not load within startupTimeout=4 s \(it was loading\)",
        model=IMPATIENT,
    ),
]


@dataclass
class Place:
    """A running server with the staged models."""

    server: Server
    stages: Stages

    def ask(self, model: str, body: str) -> Asked:
        return Asked(self.server, model, body)

    async def queued(self, model: str, jobs: int) -> None:
        while (await self.server.describe(model))["jobQueueStatus"]["pendingRequests"] != jobs:
            pass

    async def works(self, model: str, old: psutil.Process, *, survives: bool) -> None:
        """One worker is there, which answers, and the killed one has gone."""
        answer = await self.ask(model, "afterwards").end()
        assert (answer.status, answer.body) == (200, "afterwards")
        (worker,) = (await self.server.describe(model))["workers"]
        assert (worker["pid"] == old.pid) == survives
        if not survives:
            await asyncio.to_thread(old.wait, PATIENCE)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["forked", "shared", "exec"])
async def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("server")
    async with staged(folder) as stages:
        for name, config in MODELS.items():
            more = "startupTimeout: 4\n" if name == IMPATIENT else ""
            stages.write_model(folder / "store", name, config + more)
        async with running(folder, folder / "store", {"worker_launcher": request.param}) as server:
            # Its first start may take too long, where it waits for the imports of what it is forked from.
            await server.line(rf"-{IMPATIENT}.* is ready \(pid")
            yield Place(server, stages)


async def while_loading(place: Place, kill: Kill) -> psutil.Process:
    """The worker of a restart. What waits for it is told why there is none; then starting is tried again."""
    (pid,) = await place.server.worker_pids(kill.model)
    place.stages.loading_held.add(kill.model)
    os.kill(pid, signal.SIGKILL)
    visit = await place.stages.visit(kill.model, "loading")
    place.stages.loading_held.clear()
    old, waiting = visit.process(), place.ask(kill.model, "waiting")
    await place.queued(kill.model, 1)
    seen = len(place.server.lines)
    kill.deed(visit)
    answer = await waiting.end()
    assert answer.status == 503
    assert re.search(kill.while_loading or kill.cause.format(stage="loading"), answer.body)
    await place.server.line(rf"-{kill.model}.* is ready \(pid", after=seen)
    return old


async def while_idle(place: Place, kill: Kill) -> psutil.Process:
    (pid,) = await place.server.worker_pids(kill.model)
    visit = await place.stages.idle(pid)
    old = visit.process()
    seen = len(place.server.lines)
    kill.deed(visit)
    if kill.name == "SIGSTOP":  # nobody can know before it is asked
        first = await place.ask(kill.model, "first").end()
        assert first.status == 500
        # Stopped right after an answer, it has not come to say that it is idle again.
        assert re.search(kill.cause.format(stage="(idle|packing)"), first.body)
    await place.server.line(rf"-{kill.model}.* is ready \(pid", after=seen)
    return old


async def mid_batch(place: Place, kill: Kill) -> psutil.Process:
    before = place.ask(kill.model, "hold-before")  # so that the next two become one batch
    free = await place.stages.visit(kill.model, "held")
    batch = [place.ask(kill.model, body) for body in ("hold-1", "hold-2")]
    await place.queued(kill.model, 2)
    behind = place.ask(kill.model, "behind")
    await place.queued(kill.model, 3)
    free.order("go")
    visit = await place.stages.visit(kill.model, "held")
    assert sorted(visit.told) == ["hold-1", "hold-2"]
    old = visit.process()
    kill.deed(visit)
    assert (await before.end()).body == "hold-before"
    for answer in [await asked.end() for asked in batch]:
        assert (answer.status, answer.whole) == (kill.status, True)
        assert re.search(kill.cause.format(stage="handle"), answer.body)
    last = await behind.end()
    assert (last.status, last.body) == (200, "behind")
    assert sorted(place.stages.ran[kill.model]) == ["behind", "hold-1", "hold-2", "hold-before"]
    return old


async def with_a_batch_behind(place: Place, kill: Kill) -> psutil.Process:
    """A full batch waits in the worker itself, which has been fast so far. It is run by the next one."""
    for _ in range(3):
        await place.ask(kill.model, "fast").end()
    running_ = place.ask(kill.model, "hold-1")
    visit = await place.stages.visit(kill.model, "held")
    behind = [place.ask(kill.model, body) for body in ("behind-1", "behind-2")]
    await place.queued(kill.model, 2)
    old = visit.process()
    kill.deed(visit)
    assert (await running_.end()).status == kill.status
    answers = [await asked.end() for asked in behind]
    assert [(answer.status, answer.body) for answer in answers] == [(200, "behind-1"), (200, "behind-2")]
    assert sorted(place.stages.ran[kill.model]) == ["behind-1", "behind-2", *["fast"] * 3, "hold-1"]
    return old


async def while_streaming(place: Place, kill: Kill) -> psutil.Process:
    stream = place.ask(kill.model, "hold-stream")
    await stream.answer.begun("hold-stream:")
    visit = await place.stages.visit(kill.model, "held")
    behind = place.ask(kill.model, "behind")
    await place.queued(kill.model, 1)
    old = visit.process()
    kill.deed(visit)
    broken = await stream.end()
    assert (broken.status, broken.whole) == (200, False)
    await place.server.line(f"streamed answer to .* broke off: .*{kill.cause.format(stage='handle')}")
    last = await behind.end()
    assert (last.status, last.body) == (200, "behind")
    assert place.stages.ran[kill.model] == ["hold-stream", "behind"]
    return old


async def while_draining(place: Place, kill: Kill) -> psutil.Process:
    """Scaled to 0: it is let finish its batch, and takes no other one."""
    running_ = place.ask(kill.model, "hold-1")
    visit = await place.stages.visit(kill.model, "held")
    behind = place.ask(kill.model, "behind")
    await place.queued(kill.model, 1)
    await place.server.put(f"/models/{kill.model}?min_worker=0")
    assert (await behind.end()).status == 503
    old = visit.process()
    kill.deed(visit)
    answer = await running_.end()
    assert (answer.status, answer.whole) == (kill.status, True)
    assert re.search(kill.cause.format(stage="handle"), answer.body)
    await asyncio.to_thread(old.wait, PATIENCE)
    await place.server.put(f"/models/{kill.model}?min_worker=0&synchronous=true")  # waits until its slot has gone
    assert (await place.server.describe(kill.model))["workers"] == []
    status, body = await place.server.put(f"/models/{kill.model}?min_worker=1&synchronous=true")
    assert status == 200, body
    assert place.stages.ran[kill.model] == ["hold-1"]
    return old


STAGES: list[Callable[[Place, Kill], Awaitable[psutil.Process]]] = [
    while_loading,
    while_idle,
    mid_batch,
    with_a_batch_behind,
    while_streaming,
    while_draining,
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: kill.name)
async def test_killed_worker_costs_its_batch_only(
    place: Place, kill: Kill, stage: Callable[[Place, Kill], Awaitable[psutil.Process]]
) -> None:
    if kill.survives and stage is while_idle:
        pytest.skip("An idle worker asks for no memory.")
    place.stages.ran.clear()
    async with asyncio.timeout(PATIENCE):
        old = await stage(place, kill)
        survives = kill.survives and stage in (mid_batch, with_a_batch_behind, while_streaming)
        await place.works(kill.model, old, survives=survives)


@pytest.mark.parametrize("launcher", ["forked", "shared", "exec"])
async def test_stop_that_is_under_way_tells_the_causes_and_leaves_nothing(launcher: str, tmp_path: Path) -> None:
    """Each of the kills in the middle of a batch, while the server stops; and a worker that stands still while idle."""
    async with staged(tmp_path) as stages, asyncio.timeout(PATIENCE):
        for kill in KILLS:
            stages.write_model(tmp_path / "store", kill.name, MODELS[kill.model])
        stages.write_model(tmp_path / "store", "idle", PLAIN)
        async with running(tmp_path, tmp_path / "store", {"worker_launcher": launcher}) as server:
            asked = {kill.name: Asked(server, kill.name, "hold-1") for kill in KILLS}
            visits = {kill.name: await stages.visit(kill.name, "held") for kill in KILLS}
            family = server.family()
            (idle,) = await server.worker_pids("idle")
            os.kill(idle, signal.SIGSTOP)
            stopping = asyncio.create_task(server.stop())
            await server.line("Stopping")
            for kill in KILLS:
                kill.deed(visits[kill.name])
            for kill in KILLS:
                answer = await asked[kill.name].end()
                assert (answer.status, answer.whole) == (kill.status, True)
                assert re.search(kill.cause.format(stage="handle"), answer.body)
            assert await stopping == 0
            _, alive = await asyncio.to_thread(psutil.wait_procs, family, timeout=PATIENCE)
            assert not alive
            assert not list((tmp_path / "tmp").glob("torchserve-lite-models-*"))

"""Registering, running and unregistering workflows, over models that load as a test says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from torchserve_lite.core.options import ServingOptions
from torchserve_lite.core.requests import InferenceRequest, Verb
from torchserve_lite.errors import Conflict, WorkflowNotFound, WorkflowNotRegistered
from torchserve_lite.workflows.manager import WorkflowManager

from .fake_models import FakeModels, workflows
from .wars import war

WANTED = ServingOptions(url="w.war")


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


@pytest.fixture
async def manager(tmp_path: Path, models: FakeModels) -> AsyncIterator[WorkflowManager]:
    spec = "models: {max-workers: 3, m: {url: m.mar, batch-size: 4}}\ndag: {pre: [m]}\n"
    war(tmp_path, spec=spec)
    async with workflows(tmp_path, models) as made:
        yield made


def unpacked(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "scratch" / "workflows")


def request(workflow: str = "w") -> InferenceRequest:
    return InferenceRequest("id", workflow, None, Verb.PREDICT, ())


async def test_every_node_becomes_a_model_with_as_many_workers_as_it_may_have(
    manager: WorkflowManager, models: FakeModels
) -> None:
    await manager.register(ServingOptions(url="w.war", response_timeout=9.0, startup_timeout=8.0))
    model, function = models.options["w__m"], models.options["w__pre"]
    assert model == ServingOptions(
        url="m.mar",
        name="w__m",
        workflow="w",
        min_workers=3,
        max_workers=3,
        batch_size=4,
        batch_delay=0.05,
        response_timeout=9.0,
        startup_timeout=8.0,
    )
    assert (function.url, function.min_workers, function.batch_size, function.batch_delay) == ("", 3, 1, 0.0)
    assert models.archives["w__m"] is None
    assert models.archives["w__pre"] is not None


async def test_name_of_the_call_stands_above_the_manifests(manager: WorkflowManager, models: FakeModels) -> None:
    await manager.register(ServingOptions(url="w.war", name="other"))
    assert sorted(models.options) == ["other__m", "other__pre"]


async def test_workflow_of_a_name_that_is_taken_is_refused(manager: WorkflowManager, tmp_path: Path) -> None:
    await manager.register(WANTED)
    with pytest.raises(Conflict, match=r"^Workflow w is already registered\.$"):
        await manager.register(WANTED)
    assert len(unpacked(tmp_path)) == 1


async def test_of_two_registrations_at_once_one_wins(manager: WorkflowManager, models: FakeModels) -> None:
    outcomes = await asyncio.gather(manager.register(WANTED), manager.register(WANTED), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "Workflow"]
    assert sorted(models.options) == ["w__m", "w__pre"]


async def test_nothing_is_kept_when_one_node_cannot_be_loaded(
    manager: WorkflowManager, models: FakeModels, tmp_path: Path
) -> None:
    models.failing = {"w__m"}
    with pytest.raises(WorkflowNotRegistered, match=r"^Workflow w has failed to register\. Failures: \[m: planted\]$"):
        await manager.register(WANTED)
    assert (models.options, unpacked(tmp_path)) == ({}, [])
    models.failing = set()
    await manager.register(WANTED)


async def test_client_that_leaves_does_not_stop_a_registration_half_way(
    manager: WorkflowManager, models: FakeModels
) -> None:
    models.gate.clear()
    registering = asyncio.create_task(manager.register(WANTED))
    await models.busy.wait()
    registering.cancel()
    models.gate.set()
    await asyncio.wait_for(models.both.wait(), 30)
    assert sorted(models.options) == ["w__m", "w__pre"]


async def test_workflow_is_unknown_until_it_is_registered(manager: WorkflowManager, models: FakeModels) -> None:
    models.gate.clear()
    registering = asyncio.create_task(manager.register(WANTED))
    await models.busy.wait()
    with pytest.raises(WorkflowNotFound, match="Workflow not found: w"):
        await manager.run(request())
    assert manager.list_workflows() == []
    models.gate.set()
    await registering
    assert bytes((await manager.run(request())).body) == b"answer"


async def test_unregistering_finishes_what_runs_and_refuses_what_comes(
    manager: WorkflowManager, models: FakeModels, tmp_path: Path
) -> None:
    await manager.register(WANTED)
    models.gate.clear()
    models.busy.clear()
    running = asyncio.create_task(manager.run(request()))
    await models.busy.wait()
    unregistering = asyncio.create_task(manager.unregister("w"))
    await asyncio.sleep(0)
    with pytest.raises(WorkflowNotFound):
        await manager.run(request())
    with pytest.raises(Conflict, match="still being unregistered"):
        await manager.register(WANTED)
    assert len(models.options) == 2
    models.gate.set()
    assert bytes((await running).body) == b"answer"
    await unregistering
    assert (models.options, unpacked(tmp_path)) == ({}, [])


async def test_workflow_of_which_a_node_was_removed_can_be_unregistered(
    manager: WorkflowManager, models: FakeModels
) -> None:
    await manager.register(WANTED)
    await models.unregister("w__m")
    await manager.unregister("w")
    assert models.options == {}


async def test_server_that_stops_does_not_wait_for_a_registration(tmp_path: Path, models: FakeModels) -> None:
    war(tmp_path)
    models.gate.clear()
    async with workflows(tmp_path, models) as manager:
        registering = asyncio.create_task(manager.register(WANTED))
        await models.busy.wait()
    with pytest.raises(asyncio.CancelledError):
        await registering
    assert unpacked(tmp_path) == []

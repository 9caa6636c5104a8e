"""Workflows on a real server: registered, asked and removed over HTTP, with functions and models in real workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.server import Server, running, write_model
from torchserve_lite.workflows.builder import WorkflowArchiveRequest, build

pytestmark = pytest.mark.asyncio(loop_scope="module")

_DOUBLE = """
import json

def handle(data, context):
    return None if data is None else [{"doubled": 2 * json.loads(row["body"])} for row in data]
"""
_BROKEN = """
raise RuntimeError("planted")
"""
_FUNCTIONS = """
import json, os, time

FAILURES = []

def pre(data, context):
    return data and [row["body"] for row in data]

def about(data, context):
    if data is None:
        return None
    header = context.get_request_header(0, "X-Mine")
    return [{"types": sorted(type(value).__name__ for value in row.values()), "names": sorted(row), "mine": header}
            for row in data]

def fails_once(data, context):
    if data is None:
        return None
    if not FAILURES:
        FAILURES.append(1)
        raise ValueError("planted")
    return [{"failures": len(FAILURES)}]

def fails(data, context):
    if data is not None:
        raise ValueError("planted")

def left(data, context):
    return data and [meet("left", "right")]

def right(data, context):
    return data and [meet("right", "left")]

def meet(mine, other):
    open(mine, "w").close()
    while not os.path.exists(other):
        time.sleep(0.01)
    return {"met": other}
"""


def write_workflow(folder: Path, store: Path, name: str, spec: str) -> None:
    (folder / f"{name}.yaml").write_text(spec)
    (folder / "functions.py").write_text(_FUNCTIONS)
    build(
        WorkflowArchiveRequest(
            workflow_name=name,
            spec_file=str(folder / f"{name}.yaml"),
            handler=str(folder / "functions.py"),
            export_path=str(store),
        )
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    folder = tmp_path_factory.mktemp("workflows")
    store = folder / "store"
    write_model(store, "double", _DOUBLE)
    write_model(store, "broken", _BROKEN)
    write_workflow(
        folder,
        store,
        "whole",
        "models: {a: {url: double}, b: {url: double}}\ndag: {pre: [a, b], a: [about], b: [about]}",
    )
    write_workflow(folder, store, "meeting", "dag: {pre: [left, right]}")
    write_workflow(folder, store, "once", "dag: {fails_once: }")
    write_workflow(folder, store, "failing", "models: {retry-attempts: 0}\ndag: {pre: [fails]}")
    write_workflow(folder, store, "broken", "models: {m: {url: broken}}\ndag: {pre: [m]}")
    async with running(folder, store, {"load_models": "", "enable_model_api": "true"}) as made:
        yield made


async def delete(server: Server, path: str) -> tuple[int, object]:
    async with server.client.delete(server.url + path) as response:
        return response.status, await response.json()


async def test_workflow_lives_from_its_registration_to_its_end(server: Server) -> None:
    assert await server.post("/workflows?url=whole.war") == (
        200,
        {"status": "Workflow whole has been registered and scaled successfully."},
    )
    assert await server.post("/wfpredict/whole", b"21", **{"X-Mine": "kept"}) == (
        200,
        {"types": ["bytearray", "bytearray"], "names": ["a", "b"], "mine": "kept"},
    )
    _, listed = await server.get("/models")
    assert listed == {"models": [{"modelName": f"whole__{node}", "modelUrl": "double"} for node in "ab"]}
    function = await server.describe("whole__pre")
    assert (function["modelVersion"], "modelUrl" in function) == ("1.0", False)
    assert await server.get("/ping") == (200, {"status": "Healthy"})
    assert await delete(server, "/workflows/whole") == (200, {"status": 'Workflow "whole" unregistered'})
    assert await server.get("/models") == (200, {"models": []})
    assert (await server.post("/wfpredict/whole", b"21"))[0] == 404
    assert (await server.get("/models/whole__pre"))[0] == 404


async def test_branches_run_at_the_same_time(server: Server) -> None:
    """Each waits for the other to have begun."""
    assert (await server.post("/workflows?url=meeting.war"))[0] == 200
    assert await server.post("/wfpredict/meeting", b"x") == (200, {"left": {"met": "right"}, "right": {"met": "left"}})


async def test_node_that_fails_once_is_tried_again(server: Server) -> None:
    assert (await server.post("/workflows?url=once.war"))[0] == 200
    assert await server.post("/wfpredict/once", b"x") == (200, {"failures": 1})


async def test_node_that_fails_is_named_with_its_cause(server: Server) -> None:
    assert (await server.post("/workflows?url=failing.war"))[0] == 200
    status, answer = await server.post("/wfpredict/failing", b"x")
    assert isinstance(answer, dict)
    assert (status, answer["code"], answer["type"]) == (500, 500, "InternalServerException")
    assert answer["message"].startswith("Error executing fails: ")


async def test_workflow_of_which_a_model_does_not_load_leaves_nothing(server: Server) -> None:
    before = await server.get("/models")
    status, answer = await server.post("/workflows?url=broken.war")
    assert isinstance(answer, dict)
    assert (status, answer["type"]) == (500, "WorkflowException")
    assert "planted" in answer["message"]
    assert await server.get("/models") == before
    assert (await server.get("/models/broken__pre"))[0] == 404
    assert await server.get("/ping") == (200, {"status": "Healthy"})

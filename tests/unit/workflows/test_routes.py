"""The routes of workflows: TorchServe's paths, parameters, statuses and texts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.protocols.conftest import Front, listening
from torchserve_lite.config.settings import AccessConfig
from torchserve_lite.management.access import Access

from .fake_models import FakeModels, workflows
from .wars import war


@pytest.fixture
def models() -> FakeModels:
    return FakeModels()


@pytest.fixture
async def front(tmp_path: Path, models: FakeModels) -> AsyncIterator[Front]:
    war(tmp_path)
    access = Access(AccessConfig(tokens=False, model_api=True))
    async with workflows(tmp_path, models) as manager, listening(access=access, workflows=manager) as made:
        yield made


async def test_workflow_is_registered_by_query(front: Front) -> None:
    answer = await front.ask("POST", "/workflows?url=w.war")
    assert (answer.status, answer.json) == (
        200,
        {"status": "Workflow w has been registered and scaled successfully."},
    )


async def test_workflow_is_registered_by_json(front: Front, models: FakeModels) -> None:
    asked = {"url": "w.war", "workflow_name": "mine", "response_timeout": 7, "startup_timeout": "8"}
    answer = await front.ask("POST", "/workflows?url=ignored", json=asked)
    assert answer.status == 200
    options = models.options["mine__m"]
    assert (options.response_timeout, options.startup_timeout) == (7.0, 8.0)


async def test_workflow_may_have_any_name_that_a_path_can_name(front: Front) -> None:
    await front.ask("POST", "/workflows?url=w.war&workflow_name=we%20ird%2Fname")
    assert (await front.post("/wfpredict/we%20ird%2Fname")).body == b"answer"
    assert (await front.ask("DELETE", "/workflows/we%20ird%2Fname")).status == 200


async def test_second_registration_is_a_conflict(front: Front) -> None:
    await front.ask("POST", "/workflows?url=w.war")
    answer = await front.ask("POST", "/workflows?url=w.war")
    assert (answer.status, answer.json["type"]) == (409, "ConflictStatusException")
    assert answer.json["message"] == "Workflow w is already registered."


@pytest.mark.parametrize(
    ("query", "facts", "status", "kind", "said"),
    [
        pytest.param("", {}, 400, "BadRequestException", "Parameter url is required.", id="no url"),
        pytest.param(
            "?url=x.war",
            {},
            404,
            "WorkflowNotFoundException",
            "Workflow not found in workflow store: x.war",
            id="not in the store",
        ),
        pytest.param("?url=w.war&url=x", {}, 400, "BadRequestException", "url is given more than once", id="twice"),
        pytest.param("?url=w.war&response_timeout=soon", {}, 400, "BadRequestException", '"soon"', id="timeout"),
        pytest.param("?url=w.war&workflow_name=a%0Ab", {}, 400, "BadRequestException", "workflow_name", id="name"),
        pytest.param("", {"json": [1]}, 400, "BadRequestException", "object", id="JSON list"),
        pytest.param("", {"json": {"url": 1}}, 400, "BadRequestException", "url is 1", id="url is a number"),
        pytest.param(
            "",
            {"data": b"{", "headers": {"Content-Type": "application/json"}},
            400,
            "BadRequestException",
            "no JSON object",
            id="no JSON",
        ),
    ],
)
async def test_registration_that_is_wrong_says_why(
    front: Front, query: str, facts: dict[str, Any], status: int, kind: str, said: str
) -> None:
    answer = await front.ask("POST", f"/workflows{query}", **facts)
    assert (answer.status, answer.json["type"]) == (status, kind)
    assert said in answer.json["message"]


async def test_graph_that_is_none_is_torchserves_exception(front: Front, tmp_path: Path) -> None:
    war(tmp_path, name="c", spec="dag: {pre: [a], a: [b], b: [a]}")
    answer = await front.ask("POST", "/workflows?url=c.war")
    assert (answer.status, answer.json["type"]) == (400, "InvalidDAGException")


async def test_node_that_does_not_load_is_torchserves_exception(front: Front, models: FakeModels) -> None:
    models.failing = {"w__m"}
    answer = await front.ask("POST", "/workflows?url=w.war")
    assert (answer.status, answer.json["type"]) == (500, "WorkflowException")
    assert answer.json["message"].startswith("Workflow w has failed to register. Failures: [m: ")


async def test_workflows_are_listed_in_pages(front: Front) -> None:
    for name in ("b", "a", "c"):
        await front.ask("POST", f"/workflows?url=w.war&workflow_name={name}")
    first = (await front.ask("GET", "/workflows?limit=2")).json
    assert first == {"nextPageToken": "2", "workflows": [{"workflowName": n, "workflowUrl": "w.war"} for n in "ab"]}
    last = (await front.ask("GET", "/workflows?limit=2&next_page_token=2")).json
    assert last == {"workflows": [{"workflowName": "c", "workflowUrl": "w.war"}]}


async def test_description_has_torchserves_fields(front: Front) -> None:
    await front.ask("POST", "/workflows?url=w.war")
    assert (await front.ask("GET", "/workflows/w")).json == [
        {
            "workflowName": "w",
            "workflowUrl": "w.war",
            "minWorkers": 1,
            "maxWorkers": 1,
            "batchSize": 1,
            "maxBatchDelay": 50,
            "workflowDag": "{pre=[m]}",
        }
    ]


async def test_workflow_is_unregistered(front: Front, models: FakeModels) -> None:
    await front.ask("POST", "/workflows?url=w.war")
    answer = await front.ask("DELETE", "/workflows/w")
    assert (answer.status, answer.json) == (200, {"status": 'Workflow "w" unregistered'})
    assert models.options == {}


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/workflows/nope"), ("DELETE", "/workflows/nope"), ("POST", "/wfpredict/nope")]
)
async def test_unknown_workflow_is_404(front: Front, method: str, path: str) -> None:
    answer = await front.ask(method, path)
    assert (answer.status, answer.json["type"]) == (404, "WorkflowNotFoundException")
    assert answer.json["message"] == "Workflow not found: nope"


@pytest.mark.parametrize("word", ["wfpredict", "WFPredict", "WFPREDICT"])
async def test_workflow_is_asked_by_the_first_word_in_any_case(front: Front, word: str) -> None:
    await front.ask("POST", "/workflows?url=w.war")
    answer = await front.post(f"/{word}/w/")
    assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, b"answer", "application/json")


@pytest.mark.parametrize(
    ("method", "path"), [("HEAD", "/wfpredict/w"), ("GET", "/wfpredict/w"), ("PUT", "/workflows/w")]
)
async def test_method_that_neither_infers_nor_manages_is_405(front: Front, method: str, path: str) -> None:
    await front.ask("POST", "/workflows?url=w.war")
    assert (await front.ask(method, path)).status == 405


async def test_nothing_is_registered_or_removed_while_the_model_api_is_off(tmp_path: Path, models: FakeModels) -> None:
    """TorchServe leaves workflows out of this switch."""
    war(tmp_path)
    off = Access(AccessConfig(tokens=False, model_api=False))
    async with workflows(tmp_path, models) as manager, listening(access=off, workflows=manager) as front:
        for method, path in (("POST", "/workflows?url=w.war"), ("DELETE", "/workflows/w")):
            answer = await front.ask(method, path)
            assert (answer.status, answer.json["type"]) == (405, "MethodNotAllowedException")
        assert (await front.ask("GET", "/workflows")).json == {"workflows": []}

"""TorchServe's management routes: list, describe and scale."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from torchserve_lite.config.settings import AccessConfig
from torchserve_lite.core.models import ModelKey, WorkerState
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.core.requests import InferenceResponse, Verb
from torchserve_lite.errors import LoadFailed
from torchserve_lite.management.access import Access

from .conftest import Front, listening

KEY = ModelKey("tiny", "1.0")


@pytest.mark.parametrize(
    ("query", "first", "count", "next_page"),
    [
        ("", 0, 100, "100"),
        ("?limit=10", 0, 10, "10"),
        ("?limit=10&next_page_token=245", 245, 5, None),
        ("?next_page_token=150", 150, 100, None),
        ("?limit=0", 0, 100, "100"),
        ("?limit=1000", 0, 100, "100"),
        ("?next_page_token=1000", None, 0, None),
        ("?next_page_token=-5", 0, 100, "100"),
    ],
)
async def test_models_are_listed_in_pages(
    front: Front, query: str, first: int | None, count: int, next_page: str | None
) -> None:
    page = (await front.ask("GET", f"/models{query}")).json
    assert (len(page["models"]), page.get("nextPageToken")) == (count, next_page)
    if first is not None:
        assert page["models"][0] == {"modelName": f"model-{first}", "modelUrl": f"model-{first}.mar"}


@pytest.mark.parametrize("query", ["?limit=many", "?next_page_token=x"])
async def test_page_that_is_no_number_is_refused_by_name(front: Front, query: str) -> None:
    answer = await front.ask("GET", f"/models{query}")
    assert (answer.status, answer.json["type"]) == (400, "BadRequestException")
    assert query[1:].partition("=")[0] in answer.json["message"]


async def test_description_is_an_array_with_torchserves_fields(front: Front) -> None:
    answer = await front.ask("GET", "/models/tiny")
    assert answer.headers["Content-Type"] == "application/json"
    (described,) = answer.json
    assert list(described)[:13] == [
        "modelName",
        "modelVersion",
        "modelUrl",
        "runtime",
        "minWorkers",
        "maxWorkers",
        "batchSize",
        "maxBatchDelay",
        "responseTimeout",
        "startupTimeout",
        "maxRetryTimeoutInSec",
        "clientTimeoutInMills",
        "parallelType",
    ]
    assert (described["maxBatchDelay"], described["responseTimeout"]) == (100, 120)
    assert described["jobQueueStatus"] == {"remainingCapacity": 98, "pendingRequests": 2}


@pytest.mark.parametrize(
    ("state", "status"),
    [(WorkerState.READY, "READY"), (WorkerState.STARTING, "UNLOADING"), (WorkerState.FAILED, "UNLOADING")],
)
async def test_worker_has_torchserves_two_words_and_our_state(front: Front, state: WorkerState, status: str) -> None:
    front.engine.states[KEY] = state
    (worker,) = (await front.ask("GET", "/models/tiny")).json[0]["workers"]
    assert (worker["status"], worker["state"]) == (status, state)
    assert (worker["id"], worker["pid"], worker["gpu"], worker["gpuUsage"]) == ("9000", -1, False, "N/A")
    assert worker["memoryUsage"] == 1000
    assert worker.get("lastFailure") == ("shot" if state is WorkerState.FAILED else None)


@pytest.mark.parametrize(
    ("query", "body", "told"),
    [
        pytest.param("", b'{"classes": 10}', None, id="not asked for"),
        pytest.param("?customized=true", b'{"classes": 10}', {"classes": 10}, id="object"),
        pytest.param("?customized=true", b"[1]", {}, id="no object"),
        pytest.param("?customized=true", b"\xff", {}, id="no JSON"),
        pytest.param("/1.0?customized=true", b'{"classes": 10}', {"classes": 10}, id="of a version"),
    ],
)
async def test_handlers_own_description_is_shown_when_asked_for(
    front: Front, query: str, body: bytes, told: Any
) -> None:
    front.engine.answer = lambda job: job.succeed(InferenceResponse(body))
    (described,) = (await front.ask("GET", f"/models/tiny{query}")).json
    assert described.get("customizedMetadata") == told
    assert [job.request.verb for job in front.engine.jobs] == ([] if told is None else [Verb.DESCRIBE])
    assert 'ts_inference_requests_total{model_name="tiny"' not in front.metrics.registry.render()


async def test_handlers_description_is_not_wanted_any_more_when_its_client_leaves(front: Front) -> None:
    came = asyncio.Event()
    front.engine.answer = lambda job: came.set()
    _, writer = await front.connect()
    writer.write(b"GET /models/tiny?customized=true HTTP/1.1\r\nHost: x\r\n\r\n")
    await came.wait()
    (job,) = front.engine.jobs
    writer.transport.abort()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(job.answer), 60)
    assert not job.wanted


async def test_layout_is_torchserves(front: Front) -> None:
    body = (await front.ask("GET", "/models?limit=1")).body.decode()
    assert body.startswith('{\n  "nextPageToken": "1",\n  "models": [\n    {\n      "modelName": "model-0",')
    assert body.endswith("\n}\n")


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("/models/tiny", ("tiny", None, 1, 1)),
        ("/models/tiny?min_worker=3", ("tiny", None, 3, 3)),
        ("/models/tiny?min_worker=3&max_worker=5", ("tiny", None, 3, 5)),
        ("/models/tiny/2.0?min_worker=0", ("tiny", "2.0", 0, 0)),
        ("/models/tiny?model_version=2.0&min_worker=2", ("tiny", "2.0", 2, 2)),
    ],
)
@pytest.mark.parametrize("synchronous", [True, False], ids=["synchronous", "in the background"])
async def test_scaling(front: Front, path: str, call: tuple[Any, ...], synchronous: bool) -> None:
    more = f"{'&' if '?' in path else '?'}synchronous=true" if synchronous else ""
    answer = await front.ask("PUT", path + more)
    assert front.manager.scaled == [call]
    which = f", version: {call[1]}" if call[1] else ""
    done, begun = f"Workers scaled to {call[2]} for model: tiny{which}", "Processing worker updates..."
    assert (answer.status, answer.json["status"]) == ((200, done) if synchronous else (202, begun))


ABSURD = [
    "1000001",
    "1000000000",
    "9" * 5000,
    "-9999999999",
    "1e3",
    "1_0",
    "0x5",
    "",
    " ",
    "1.0",
    "\u0663",
    "nan",
    "None",
]


@pytest.mark.parametrize("text", ABSURD)
@pytest.mark.parametrize(
    ("method", "path", "name", "bound"),
    [
        ("PUT", "/models/tiny", "min_worker", "from 0 to 1000"),
        ("PUT", "/models/tiny/2.0", "max_worker", "from 0 to 1000"),
        ("GET", "/models", "limit", "at most 1000000"),
        ("GET", "/models", "next_page_token", "at most 1000000"),
    ],
)
async def test_absurd_number_is_refused_with_its_bound(
    front: Front, method: str, path: str, name: str, bound: str, text: str
) -> None:
    """A million workers asked for stood the event loop still while their slots were made."""
    answer = await front.ask(method, path, params={name: text})
    assert (answer.status, front.manager.scaled) == (400, [])
    assert name in answer.json["message"]
    assert bound in answer.json["message"]


@pytest.mark.parametrize("workers", [1001, 65536])
async def test_more_workers_than_a_machine_can_have_are_refused(front: Front, workers: int) -> None:
    answer = await front.ask("PUT", f"/models/tiny?min_worker={workers}")
    assert (answer.status, "from 0 to 1000" in answer.json["message"]) == (400, True)


@pytest.mark.parametrize(
    ("request_line", "name"),
    [
        ("PUT /models/tiny?min_worker=1&min_worker=2", "min_worker"),
        ("PUT /models/tiny?model_version=1.0&model_version=2.0", "model_version"),
        ("PUT /models/tiny?synchronous=true&synchronous=false", "synchronous"),
        ("PUT /models/tiny?url=a.mar&url=b.mar", "url"),
        ("GET /models?limit=1&limit=2", "limit"),
        ("POST /models?url=a.mar&url=b.mar", "url"),
    ],
)
async def test_parameter_given_twice_is_refused_by_name(front: Front, request_line: str, name: str) -> None:
    answer = await front.ask(*request_line.split())
    assert (answer.status, front.manager.scaled, front.manager.registered) == (400, [], [])
    assert answer.json["message"].startswith(f"{name} is given more than once")


async def test_scaling_by_a_json_body_is_refused(front: Front) -> None:
    """A body is not read, so that the model would have been scaled to one worker."""
    answer = await front.ask("PUT", "/models/tiny", json={"min_worker": 3})
    assert (answer.status, front.manager.scaled) == (400, [])
    assert "?min_worker=2" in answer.json["message"]


@pytest.mark.parametrize("name", ["min_worker", "max_worker", "initial_workers", "max_workers", "model_name"])
async def test_update_is_refused_with_what_it_would_not_change(front: Front, name: str) -> None:
    answer = await front.ask("PUT", f"/models/tiny?url=n.mar&{name}=3")
    assert answer.status == 400
    assert f"Leave {name} out" in answer.json["message"]


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("?min_worker=5&max_worker=3", "max_worker cannot be less than min_worker."),
        ("?min_worker=-1", "min_worker=-1"),
        ("?min_worker=many", "min_worker is 'many'"),
        ("?min_worker=1.5", "min_worker is '1.5'"),
    ],
)
async def test_scaling_to_nonsense_is_refused(front: Front, query: str, told: str) -> None:
    answer = await front.ask("PUT", f"/models/tiny{query}")
    assert (answer.status, front.manager.scaled) == (400, [])
    assert told in answer.json["message"]


async def test_scaling_that_fails_tells_the_handlers_fault(front: Front) -> None:
    front.manager.failure = LoadFailed("ImportError: no module named torchvision")
    answer = await front.ask("PUT", "/models/tiny?min_worker=2&synchronous=true")
    assert answer.status == 500
    assert "torchvision" in answer.json["message"]


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_unknown_model_is_not_found(front: Front, method: str) -> None:
    answer = await front.ask(method, "/models/unknown")
    assert (answer.status, answer.json["type"]) == (404, "ModelNotFoundException")


async def test_json_body_is_the_registration_and_the_query_is_not_looked_at(front: Front) -> None:
    answer = await front.ask("POST", "/models?url=other.mar", json={"url": "m.mar", "batch_size": 3})
    assert (answer.status, front.manager.registered) == (200, [ServingOptions(url="m.mar", batch_size=3)])


@pytest.mark.parametrize(
    ("method", "path", "told"),
    [
        pytest.param("DELETE", "/models/tiny", 'Model "tiny" unregistered', id="unregister"),
        pytest.param(
            "PUT",
            "/models/tiny/2.0/set-default",
            'Default version successfully updated for model "tiny" to "2.0"',
            id="default",
        ),
        pytest.param("PUT", "/models/tiny?url=n.mar", 'Model "tiny" Version: 1.0 is served from tiny.mar', id="update"),
        pytest.param(
            "POST",
            "/models/tiny/2.0/rollback",
            'Model "tiny" Version: 2.0 is served again from tiny.mar',
            id="rollback",
        ),
    ],
)
async def test_change_is_answered_with_what_has_been_done(front: Front, method: str, path: str, told: str) -> None:
    answer = await front.ask(method, path)
    assert (answer.status, answer.json) == (200, {"status": told})


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/models?url=m.mar"), ("DELETE", "/models/tiny"), ("PUT", "/models/tiny?url=m.mar")]
)
async def test_models_are_not_changed_while_the_model_api_is_off(method: str, path: str) -> None:
    async with listening(access=Access(AccessConfig(tokens=False))) as front:
        answer = await front.ask(method, path)
    assert (answer.status, answer.json["type"]) == (405, "MethodNotAllowedException")
    assert "enable_model_api" in answer.json["message"]

"""The management API, request by request: TorchServe's answers, or those that ``docs/differences.md`` tells of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.e2e.server import PATIENCE, Server, running, write_archive
from tests.unit.workflows.wars import war

pytestmark = pytest.mark.asyncio(loop_scope="module")

ECHO = """
def handle(data, context):
    if data is None:
        return None
    if context.get_request_header(0, "describe"):
        return [{"made": "by hand"}]
    return [1] * len(data)
"""
FIELDS = """modelName modelVersion modelUrl runtime minWorkers maxWorkers batchSize maxBatchDelay responseTimeout
    startupTimeout maxRetryTimeoutInSec clientTimeoutInMills parallelType parallelLevel deviceType continuousBatching
    useJobTicket useVenv stateful sequenceMaxIdleMSec sequenceTimeoutMSec maxNumSequence maxSequenceJobQueueSize
    loadedAtStartup workers jobQueueStatus"""
REFUSED_KEY = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
PROCESSING = "Processing worker updates..."
NO_WORKERS_YET = "registered with 0 initial workers. Use scale workers API to add workers for the model."


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    write_archive(store, "echo.mar", "echo", "1.0", ECHO)
    write_archive(store, "echo2.mar", "echo", "2.0", ECHO)
    write_archive(store, "other.mar", "other", "1.0", ECHO)
    write_archive(store, "configured.mar", "configured", "1.0", ECHO, config="batchSize: 3\nmaxBatchDelay: 7\n")
    write_archive(store, "raises.mar", "raises", "1.0", "raise RuntimeError('broken')")
    write_archive(store, "hungry.mar", "hungry", "1.0", "raise MemoryError('all of it')")
    write_archive(store, "exits.mar", "exits", "1.0", "import os\nos._exit(7)")
    (store / "broken.mar").write_bytes(b"no archive")
    war(store, name="wfa", spec="models: {m: {url: other.mar}}\ndag: {pre: [m]}\n")
    return store


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """Whose clients may register models; it begins with none, and with no workers for those that come."""
    folder = tmp_path_factory.mktemp("server")
    settings = {
        "enable_model_api": "true",
        "allowed_urls": r"http://127\\.0\\.0\\.1:1/.*",
        "load_models": "",
        "default_workers_per_model": 0,
    }
    async with running(folder, store, settings) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def api(server: Server) -> AsyncIterator[Server]:
    """The server without any models, before and after."""
    yield server
    await _answer(server, "DELETE /workflows/wfa")
    while models := (await _answer(server, "GET /models"))[1]["models"]:
        for name in {quote(model["modelName"], safe="") for model in models}:
            _, versions = await _answer(server, f"GET /models/{name}/all")
            _, (default,) = await _answer(server, f"GET /models/{name}")
            for version in sorted((v["modelVersion"] for v in versions), key=default["modelVersion"].__eq__):
                await _answer(server, f"DELETE /models/{name}/{version}")


async def _answer(server: Server, request: str, **more: Any) -> tuple[int, Any]:
    method, _, target = request.partition(" ")
    async with server.client.request(method, server.url + target, **more) as response:
        return response.status, json.loads(await response.text())


def _told(body: Any) -> str:
    """What an answer says, in one line."""
    return body["status"] if "status" in body else f"{body['type']}: {body['message']}"


def case(request: str, status: int, told: str, *, id: str, after: Sequence[str] = ()) -> Any:
    """``told`` is the status, or type and message of an error; one that ends in ... goes on with more of ours."""
    return pytest.param(after, request, status, told, id=id)


REGISTERED = "POST /models?url=echo.mar"
TWO_VERSIONS = [REGISTERED, "POST /models?url=echo2.mar"]
SERVED = [f"{REGISTERED}&initial_workers=1"]
REGISTERED_WORKFLOW = "POST /workflows?url=wfa.war"

CASES = [
    # Register
    case(REGISTERED, 200, f'Model "echo" Version: 1.0 {NO_WORKERS_YET}', id="register"),
    case(
        f"{REGISTERED}&initial_workers=1&synchronous=true",
        200,
        'Model "echo" Version: 1.0 registered with 1 initial workers',
        id="register with workers",
    ),
    case(
        f"{REGISTERED}&initial_workers=2",
        200,
        'Model "echo" Version: 1.0 registered with 2 initial workers',
        id="register is synchronous unless told",
    ),
    case(f"{REGISTERED}&initial_workers=1&synchronous=false", 202, PROCESSING, id="register asynchronously"),
    case(f"{REGISTERED}&synchronous=nonsense&initial_workers=1", 202, PROCESSING, id="only true is true"),
    case(
        f"{REGISTERED}&model_name=mine", 200, f'Model "mine" Version: 1.0 {NO_WORKERS_YET}', id="register under a name"
    ),
    case(
        f"{REGISTERED}&model_name=we%20ird%2Fname",
        200,
        f'Model "we ird/name" Version: 1.0 {NO_WORKERS_YET}',
        id="any text is a name",
    ),
    case("POST /models", 400, "BadRequestException: Parameter url is required.", id="register without url"),
    case("POST /models?url=nosuch.mar", 404, "ModelNotFoundException: Model not found at: nosuch.mar", id="no archive"),
    case(
        "POST /models?url=../x.mar",
        404,
        "ModelNotFoundException: Relative path is not allowed in url: ../x.mar",
        id="relative path",
    ),
    case(
        "POST /models?url=http://models.example/x.mar",
        404,
        "ModelNotFoundException: Given URL http://models.example/x.mar does not match any allowed URL(s)...",
        id="url that is not allowed",
    ),
    case(
        "POST /models?url=file:///etc/passwd",
        404,
        "ModelNotFoundException: Given URL file:///etc/passwd does not match any allowed URL(s)...",
        id="file that is not allowed",
    ),
    case(
        "POST /models?url=http://127.0.0.1:1/x.mar",
        400,
        "DownloadArchiveException: Failed to download archive from: http://127.0.0.1:1/x.mar...",
        id="url that nobody answers",
    ),
    case(f"{REGISTERED}&runtime=ruby", 400, "BadRequestException: Invalid RuntimeType value: ruby...", id="runtime"),
    case(
        REGISTERED,
        409,
        "ConflictStatusException: Model version 1.0 is already registered for model echo...",
        id="register twice",
        after=[REGISTERED],
    ),
    case(
        "POST /models?url=echo2.mar",
        200,
        f'Model "echo" Version: 2.0 {NO_WORKERS_YET}',
        id="register another version",
        after=[REGISTERED],
    ),
    *(
        case(
            f"POST /models?url={name}.mar&initial_workers=1",
            status,
            f"InternalServerException: Failed to start workers for model {name} version: 1.0...",
            id=f"a model that {name}",
        )
        for name, status in [("raises", 500), ("hungry", 507), ("exits", 500)]
    ),
    case(
        "POST /models?url=raises.mar&initial_workers=1",
        500,
        "InternalServerException: Failed to start workers for model raises version: 1.0...",
        id="a model that failed is not registered",
        after=["POST /models?url=raises.mar&initial_workers=1"],
    ),
    # Unregister
    case("DELETE /models/echo", 200, 'Model "echo" unregistered', id="unregister", after=SERVED),
    case("DELETE /models/echo/1.0", 200, 'Model "echo" unregistered', id="the only version", after=[REGISTERED]),
    case("DELETE /models/echo/2.0", 200, 'Model "echo" unregistered', id="one of two versions", after=TWO_VERSIONS),
    case("DELETE /models/nope", 404, "ModelNotFoundException: Model not found: nope", id="unregister no model"),
    case(
        "DELETE /models/echo/9",
        404,
        "ModelVersionNotFoundException: Model version: 9 does not exist for model: echo",
        id="unregister no version",
        after=[REGISTERED],
    ),
    *(
        case(
            request,
            403,
            "InvalidModelVersionException: Cannot remove default version for model echo...",
            id=id,
            after=TWO_VERSIONS,
        )
        for id, request in {
            "unregister the default of two": "DELETE /models/echo/1.0",
            "unregister one of two without saying which": "DELETE /models/echo",
        }.items()
    ),
    # Scale
    case("PUT /models/echo?min_worker=1", 202, PROCESSING, id="scale", after=[REGISTERED]),
    case(
        "PUT /models/echo?min_worker=1&synchronous=true",
        200,
        "Workers scaled to 1 for model: echo",
        id="scale synchronously",
        after=[REGISTERED],
    ),
    case(
        "PUT /models/echo/2.0?min_worker=1&synchronous=true",
        200,
        "Workers scaled to 1 for model: echo, version: 2.0",
        id="scale a version",
        after=TWO_VERSIONS,
    ),
    case(
        "PUT /models/echo?model_version=2.0&synchronous=true",
        200,
        "Workers scaled to 1 for model: echo, version: 2.0",
        id="scale a version in the query",
        after=TWO_VERSIONS,
    ),
    case(
        "PUT /models/echo?min_worker=1&max_worker=3&synchronous=true",
        200,
        "Workers scaled to 2 for model: echo",
        id="between the bounds nothing happens",
        after=[f"{REGISTERED}&initial_workers=2"],
    ),
    case(
        "PUT /models/echo?min_worker=0&synchronous=true",
        200,
        "Workers scaled to 0 for model: echo",
        id="scale to none",
        after=SERVED,
    ),
    case(
        "PUT /models/echo?min_worker=2&max_worker=1",
        400,
        "BadRequestException: max_worker cannot be less than min_worker.",
        id="more at least than at most",
        after=[REGISTERED],
    ),
    case("PUT /models/nope?min_worker=1", 404, "ModelNotFoundException: Model not found: nope", id="scale no model"),
    case(
        "PUT /models/echo/9?min_worker=1",
        404,
        "ModelVersionNotFoundException: Model version: 9 does not exist for model: echo",
        id="scale no version",
        after=[REGISTERED],
    ),
    # Describe
    case("GET /models/nope", 404, "ModelNotFoundException: Model not found: nope", id="describe no model"),
    case(
        "GET /models/echo/9",
        404,
        "ModelVersionNotFoundException: Model version: 9 does not exist for model: echo",
        id="describe no version",
        after=[REGISTERED],
    ),
    case(
        "GET /models/echo?customized=true",
        503,
        'ServiceUnavailableException: Model "echo" has no worker to serve describe request. Please use scale workers '
        "API to add workers.",
        id="nobody to describe itself",
        after=[REGISTERED],
    ),
    # Default version
    case(
        "PUT /models/echo/2.0/set-default",
        200,
        'Default version successfully updated for model "echo" to "2.0"',
        id="set the default",
        after=TWO_VERSIONS,
    ),
    case("PUT /models/nope/1.0/set-default", 404, "ModelNotFoundException: Model not found: nope", id="of no model"),
    case(
        "PUT /models/echo/7.0/set-default",
        404,
        "ModelVersionNotFoundException: Model version 7.0 does not exist for model echo",
        id="to no version",
        after=[REGISTERED],
    ),
    # Elsewhere
    case("PATCH /models", 405, "MethodNotAllowedException: Requested method is not allowed, please refer to API "
         "document.", id="method"),
    case("GET /nosuch", 404, "ResourceNotFoundException: Requested resource is not found, please refer to API "
         "document.", id="route"),
    case("GET /v1/models/nope", 404, "ModelNotFoundException: Model not found: nope", id="readiness of no model"),
    case("GET /ping", 200, "Healthy", id="health of a server without models"),
    case("GET /", 200, "alive", id="the root, which is 405 in TorchServe and is KServe's liveness here"),
    case("POST /predictions/nope", 404, "ModelNotFoundException: Model not found: nope", id="prediction of no model"),
    case(
        "POST /predictions/echo/9.9",
        404,
        "ModelVersionNotFoundException: Model version: 9.9 does not exist for model: echo",
        id="prediction of no version",
        after=[REGISTERED],
    ),
    case(
        "POST /predictions/echo",
        503,
        'ServiceUnavailableException: Model "echo" has no worker to serve inference request. Please use scale workers '
        "API to add workers....",
        id="prediction without workers",
        after=[REGISTERED],
    ),
    case("POST /invocations", 400, "BadRequestException: Parameter model_name is required.", id="invocation of which?"),
    # Workflows
    case(REGISTERED_WORKFLOW, 200, "Workflow wfa has been registered and scaled successfully.", id="workflow"),
    case(
        REGISTERED_WORKFLOW,
        409,
        "ConflictStatusException: Workflow wfa is already registered.",
        id="workflow twice",
        after=[REGISTERED_WORKFLOW],
    ),
    case("POST /workflows", 400, "BadRequestException: Parameter url is required.", id="workflow without url"),
    case(
        "POST /workflows?url=x.war",
        404,
        "WorkflowNotFoundException: Workflow not found in workflow store: x.war",
        id="no workflow archive",
    ),
    case("GET /workflows/nope", 404, "WorkflowNotFoundException: Workflow not found: nope", id="describe no workflow"),
    case("DELETE /workflows/nope", 404, "WorkflowNotFoundException: Workflow not found: nope", id="remove no workflow"),
    case("POST /wfpredict/nope", 404, "WorkflowNotFoundException: Workflow not found: nope", id="run no workflow"),
    case("PUT /workflows/wfa", 405, "MethodNotAllowedException: ...", id="workflows have no PUT"),
    case(
        "DELETE /workflows/wfa", 200, 'Workflow "wfa" unregistered', id="remove a workflow", after=[REGISTERED_WORKFLOW]
    ),
]  # fmt: skip


@pytest.mark.parametrize(("after", "request_line", "status", "told"), CASES)
async def test_request_is_answered_as_by_torchserve(
    after: Sequence[str], request_line: str, status: int, told: str, api: Server
) -> None:
    for earlier in after:
        await _answer(api, earlier)
    answered, body = await _answer(api, request_line)
    assert answered == status, body
    assert _told(body).startswith(told.removesuffix("...")) if told.endswith("...") else _told(body) == told
    if status >= 400:
        assert list(body)[:3] == ["code", "type", "message"]
        assert body["code"] == status


async def test_json_body_is_taken_in_place_of_the_query(api: Server) -> None:
    status, body = await _answer(api, "POST /models?url=nosuch.mar", json={"url": "echo.mar", "batch_size": 4})
    assert (status, _told(body)) == (200, f'Model "echo" Version: 1.0 {NO_WORKERS_YET}')
    _, (described,) = await _answer(api, "GET /models/echo")
    assert (described["batchSize"], described["maxBatchDelay"]) == (4, 100)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param(b"{}", "BadRequestException: Parameter url is required.", id="without url"),
        pytest.param(b"{", "BadRequestException: ...", id="that is no JSON"),
        pytest.param(b"[]", "BadRequestException: ...", id="that is a list"),
        pytest.param(b'{"url": "echo.mar", "batch_size": "many"}', "BadRequestException: ...", id="without a number"),
    ],
)
async def test_json_body_is_refused(body: bytes, told: str, api: Server) -> None:
    headers = {"Content-Type": "application/json"}
    status, answer = await _answer(api, "POST /models?url=echo.mar", data=body, headers=headers)
    assert status == 400
    assert _told(answer).startswith(told.removesuffix("..."))


async def test_form_is_not_read(api: Server) -> None:
    status, body = await _answer(api, "POST /models", data={"url": "echo.mar"})
    assert (status, _told(body)) == (400, "BadRequestException: Parameter url is required.")


@pytest.mark.parametrize("number", ["batch_size=x", "initial_workers=-1", "response_timeout=1e3"])
async def test_number_that_cannot_be_meant_is_refused_and_named(number: str, api: Server) -> None:
    status, body = await _answer(api, f"{REGISTERED}&{number}")
    assert status == 400
    assert number.partition("=")[0] in body["message"]


async def test_figures_of_a_registration_are_described(api: Server) -> None:
    figures = "batch_size=5&max_batch_delay=30&response_timeout=11&startup_timeout=12"
    await _answer(api, f"POST /models?url=configured.mar&{figures}")
    _, (described,) = await _answer(api, "GET /models/configured")
    names = ("batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout")
    assert [described[name] for name in names] == [5, 30, 11, 12]


async def test_archive_says_what_a_registration_does_not(api: Server) -> None:
    await _answer(api, "POST /models?url=configured.mar")
    _, (described,) = await _answer(api, "GET /models/configured")
    assert (described["batchSize"], described["maxBatchDelay"]) == (3, 7)


async def test_first_version_is_the_default_until_another_one_is_set(api: Server) -> None:
    for request in TWO_VERSIONS:
        await _answer(api, request)
    _, (before,) = await _answer(api, "GET /models/echo")
    await _answer(api, "PUT /models/echo/2.0/set-default")
    _, (after,) = await _answer(api, "GET /models/echo")
    assert (before["modelVersion"], after["modelVersion"]) == ("1.0", "2.0")


async def test_archive_of_the_store_outlives_its_model(api: Server, store: Path) -> None:
    await _answer(api, REGISTERED)
    await _answer(api, "DELETE /models/echo")
    assert (store / "echo.mar").exists()


async def test_descriptions_are_an_array_with_torchserves_fields_in_its_order(api: Server) -> None:
    await _answer(api, f"{REGISTERED}&initial_workers=1")
    status, (described,) = await _answer(api, "GET /models/echo")
    assert status == 200
    fields = FIELDS.split()
    assert [field for field in described if field in fields] == fields
    (worker,) = described["workers"]
    assert list(worker)[:7] == ["id", "startTime", "status", "memoryUsage", "pid", "gpu", "gpuUsage"]
    assert (worker["status"], worker["gpu"], worker["gpuUsage"]) == ("READY", False, "N/A")
    assert described["loadedAtStartup"] is False
    assert described["jobQueueStatus"] == {"remainingCapacity": 100, "pendingRequests": 0}


async def test_all_versions_or_one_are_described(api: Server) -> None:
    for request in TWO_VERSIONS:
        await _answer(api, request)
    _, every = await _answer(api, "GET /models/echo/all")
    _, one = await _answer(api, "GET /models/echo/2.0")
    assert [described["modelVersion"] for described in every] == ["1.0", "2.0"]
    assert [described["modelVersion"] for described in one] == ["2.0"]


async def test_handler_describes_itself(api: Server) -> None:
    await _answer(api, f"{REGISTERED}&initial_workers=1")
    status, (described,) = await _answer(api, "GET /models/echo?customized=true")
    assert (status, described["customizedMetadata"]) == (200, {"made": "by hand"})


async def test_list_has_names_in_order_and_pages(api: Server) -> None:
    for request in (*TWO_VERSIONS, "POST /models?url=other.mar", "POST /models?url=echo.mar&model_name=aside"):
        await _answer(api, request)
    _, first = await _answer(api, "GET /models?limit=2")
    _, second = await _answer(api, f"GET /models?limit=2&next_page_token={first['nextPageToken']}")
    assert first == {
        "nextPageToken": "2",
        "models": [
            {"modelName": "aside", "modelUrl": "echo.mar"},
            {"modelName": "echo", "modelUrl": "echo.mar"},
        ],
    }
    assert second == {"models": [{"modelName": "other", "modelUrl": "other.mar"}]}


@pytest.mark.parametrize("limit", ["0", "-1", "101"])
async def test_limit_out_of_bounds_is_a_hundred(limit: str, api: Server) -> None:
    await _answer(api, REGISTERED)
    status, body = await _answer(api, f"GET /models?limit={limit}")
    assert (status, list(body)) == (200, ["models"])


async def _raw(server: Server, request: bytes) -> bytes:
    """The answer to what no client would send, to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    return answer


async def test_garbage_is_400(server: Server) -> None:
    answer = await _raw(server, b"garbage\r\n\r\n")
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert b'"type": "BadRequestException"' in answer


async def test_body_over_the_limit_is_413_and_says_so(server: Server) -> None:
    """TorchServe's 413 has no body, and its own limit is the same."""
    answer = await _raw(server, b"POST /models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6553501\r\n\r\n")
    assert b" 413 " in answer.partition(b"\r\n")[0]
    assert b"max_request_size=6553500" in answer


async def test_plain_http_on_an_encrypted_listener_is_403(store: Path, tmp_path: Path) -> None:
    addresses = {f"{role}_address": "https://127.0.0.1:0" for role in ("inference", "management")}
    async with running(tmp_path, store, {"load_models": "", **addresses}) as server:
        answer = await _raw(server, b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b" 403 " in answer.partition(b"\r\n")[0]
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
        "status": "This TorchServe instance only accepts HTTPS requests"
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def closed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server as it is by default: its clients may not register models. Management has an address of its own."""
    settings = {"load_models": "echo.mar", "management_address": "http://localhost:0"}
    async with running(tmp_path_factory.mktemp("closed"), store, settings) as server:
        server.url = (await server.line("listening: management")).rpartition(" ")[2]
        yield server


@pytest.mark.parametrize(
    ("request_line", "status", "told"),
    [
        ("POST /models?url=other.mar", 405, "MethodNotAllowedException"),
        ("DELETE /models/echo", 405, "MethodNotAllowedException"),
        ("DELETE /models/echo/1.0", 405, "MethodNotAllowedException"),
        ("PUT /models/echo?min_worker=1&synchronous=true", 200, "Workers scaled to 1 for model: echo"),
        ("PUT /models/echo/1.0/set-default", 200, "Default version successfully updated"),
    ],
)
async def test_clients_change_which_models_there_are_only_when_that_is_allowed(
    request_line: str, status: int, told: str, closed: Server
) -> None:
    answered, body = await _answer(closed, request_line)
    assert (answered, _told(body)[: len(told)]) == (status, told)


async def test_kserves_readiness_is_told_on_the_management_address(closed: Server) -> None:
    assert await _answer(closed, "GET /v1/models/echo") == (200, {"name": "echo", "ready": True})
    assert (await _answer(closed, "GET /v1/models/nope"))[0] == 404
    assert (await _answer(closed, "DELETE /v1/models/echo"))[0] == 405


async def test_management_api_describes_itself(closed: Server) -> None:
    status, document = await _answer(closed, "OPTIONS /")
    assert status == 200
    assert document["openapi"].startswith("3.0")
    assert {"get", "post"} <= document["paths"]["/models"].keys()
    assert "put" in document["paths"]["/models/{model_name}/{model_version}/set-default"]


async def test_keys_open_management_and_are_renewed(store: Path, tmp_path: Path) -> None:
    def header(kind: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {json.loads((tmp_path / 'key_file.json').read_text())[kind]['key']}"}

    async with running(tmp_path, store, {"load_models": "", "disable_token_authorization": "false"}) as server:
        status, body = await _answer(server, "GET /models")
        assert (status, _told(body)) == (401, f"InvalidKeyException: {REFUSED_KEY}")
        first = header("management")
        assert (await _answer(server, "GET /models", headers=first))[0] == 200
        assert (await _answer(server, "GET /models", headers=header("inference")))[0] == 401

        async with server.client.get(f"{server.url}/token?type=management", headers=header("API")) as renewed:
            assert (renewed.status, await renewed.text()) == (200, "\n")
        assert (await _answer(server, "GET /models", headers=first))[0] == 401
        assert (await _answer(server, "GET /models", headers=header("management")))[0] == 200

"""The API description: valid, and as complete as the routes themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from openapi_spec_validator import validate

from tests.unit.protocols.conftest import Answer, Front, listening
from torchserve_lite import __version__
from torchserve_lite.config.settings import AccessConfig, Address, HttpConfig
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.management.access import Access, Door
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.http.guard import Guard
from torchserve_lite.protocols.http.openapi import ApiDescription, Operation
from torchserve_lite.protocols.http.routing import RouteTable

ROLES = ("inference", "management", "metrics")
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")
OF_ANY_METHOD = ("/ping", "/api-description")
NAMES = {"file": "app.js", "model_name": "tiny", "model_version": "1.0", "url_path": "a/b"}


@asynccontextmanager
async def apart() -> AsyncIterator[Front]:
    """Each role on a listener of its own."""
    ports = [Address(port=0, host=host) for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3")]
    async with listening(inference=ports[0], management=ports[1], metrics=ports[2]) as front:
        yield front


async def ask(front: Front, role: str, method: str, path: str, **facts: Any) -> Answer:
    async with front.client.request(method, front.http.addresses[role] + path, **facts) as response:
        return Answer(response.status, response.headers, await response.read())


def described(document: Any) -> Iterator[tuple[str, str]]:
    for path, operations in document["paths"].items():
        yield from ((method.upper(), path) for method in operations if method != "parameters")


@pytest.mark.parametrize("role", ROLES)
async def test_each_listener_describes_itself_in_valid_openapi(role: str) -> None:
    async with apart() as front:
        answer = await ask(front, role, "OPTIONS", "/")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json["openapi"].startswith("3.0.")
    assert (answer.json["info"]["title"], answer.json["info"]["version"]) == ("TorchServe APIs", __version__)
    validate(answer.json)


async def test_shared_listener_describes_the_routes_of_all_its_roles(front: Front) -> None:
    async with apart() as alone:
        documents = [(await ask(alone, role, "OPTIONS", "/")).json for role in ROLES]
    shared = (await front.ask("OPTIONS", "/")).json
    validate(shared)
    assert set(described(shared)) == {one for document in documents for one in described(document)}


async def test_operations_have_torchserves_ids(front: Front) -> None:
    document = (await front.ask("OPTIONS", "/")).json
    found = {document["paths"][path][method.lower()]["operationId"] for method, path in described(document)}
    ids = ("apiDescription", "api-description", "ping", "predictions", "version_predictions", "listModels", "metrics")
    management = (
        "describeModel",
        "version_describeModel",
        "setAutoScale",
        "version_setAutoScale",
        "registerModel",
        "unregisterModel",
        "version_unregisterModel",
        "setDefault",
    )
    assert found >= {*ids, *management}


@pytest.mark.parametrize("method", [*METHODS, "OPTIONS"])
async def test_older_path_of_the_description_answers_any_method(front: Front, method: str) -> None:
    answer = await front.ask(method, "/api-description")
    assert (answer.status, answer.body) == (200, (await front.ask("OPTIONS", "/")).body)


@pytest.mark.parametrize("role", ["management", "metrics"])
async def test_root_is_for_options_only_where_kserve_has_no_route_there(role: str) -> None:
    async with apart() as front:
        answer = await ask(front, role, "GET", "/")
    assert (answer.status, answer.headers["Allow"]) == (405, "OPTIONS")


async def test_what_is_described_is_answered_and_what_is_answered_is_described(front: Front) -> None:
    document = (await front.ask("OPTIONS", "/")).json
    for path in document["paths"]:
        target = path.format(**NAMES)
        for method in METHODS:
            answer = await front.ask(method, target + "?model_name=tiny", data=b"7")
            assert answer.status != 404, path
            is_described = method.lower() in document["paths"][path]
            answered = answer.status != 405
            assert answered == (is_described or path in OF_ANY_METHOD), (method, path, answer.status)
            if answered:
                operation = document["paths"][path].get(method.lower(), document["paths"][path].get("get"))
                assert str(answer.status) in operation["responses"], (method, path, answer.status)


async def test_description_needs_no_key_and_says_what_does() -> None:
    async with listening(access=Access(AccessConfig())) as front:
        document = (await front.ask("OPTIONS", "/")).json
    validate(document)
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    with_key = {path for path, operations in document["paths"].items() if "security" in str(operations)}
    assert with_key >= {"/predictions/{model_name}", "/v2/models/{model_name}/infer", "/models", "/token"}
    assert not with_key & {"/", "/ping", "/v2/health/ready", "/metrics", "/api-description"}
    assert "401" in document["paths"]["/models"]["get"]["responses"]


async def _never(*facts: object) -> web.StreamResponse:
    raise AssertionError


async def _handler(request: web.Request) -> InferenceResponse:
    return InferenceResponse(b"")


def test_route_without_a_description_is_refused() -> None:
    guard = Guard(Access(AccessConfig(tokens=False)), HttpConfig(), Address(), ())
    group = RouteTable(_never, guard).group(ErrorForm.TORCHSERVE, Door.OPEN)
    with pytest.raises(TypeError, match="/new has no description"):
        group.add("GET", "/new", _handler)


def test_name_in_a_path_that_nothing_is_said_of_is_refused() -> None:
    operation = Operation(id="new", path="/new/{thing}", summary="A new thing.", answers={})
    with pytest.raises(ValueError, match="thing"):
        ApiDescription().add(("GET",), operation, ErrorForm.TORCHSERVE)


@pytest.mark.parametrize(
    ("path", "title", "paths"),
    [
        ("/predictions/we%20ird", "RESTful API for: we ird", {"/predictions/we%20ird", "/v2/models/we%20ird/infer"}),
        ("/explanations/m/2.0", "RESTful API for: m", {"/explanations/m", "/explanations/m/{model_version}"}),
        ("/predictions/%7Bmodel_name%7D%22", 'RESTful API for: {model_name}"', {"/predictions/%7Bmodel_name%7D%22"}),
        ("/v1/models/m:predict", "RESTful API for: m", {"/v1/models/m:predict", "/v1/models/m"}),
        ("/v2/models/m/versions/1/infer", "RESTful API for: m", {"/v2/models/m/infer"}),
        ("/invocations?model_name=m", "RESTful API for: m", {"/models/m/invoke"}),
        ("/models/tiny", "RESTful Management API for: tiny", {"/models/tiny", "/models/tiny/{model_version}"}),
        ("/models/tiny/2.0", "RESTful Management API for: tiny", {"/models/tiny"}),
        ("/v2/health/live", "TorchServe APIs", {"/v2/health/live"}),
        ("/invocations", "TorchServe APIs", {"/invocations"}),
        ("/nowhere", "No API at /nowhere", set()),
        ("/v2/nowhere/%ff/", "No API at /v2/nowhere/%FF/", set()),
    ],
)
async def test_options_of_a_path_describe_what_is_there(front: Front, path: str, title: str, paths: set[str]) -> None:
    answer = await front.ask("OPTIONS", path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json["info"]["title"] == title
    assert answer.json["paths"].keys() >= paths
    assert paths or not answer.json["paths"]
    validate(answer.json)


@pytest.mark.parametrize("path", ["/models/unknown", "/models/tiny/7.0"])
async def test_options_of_an_unknown_model_are_refused_by_management_but_not_to_a_browser(
    front: Front, path: str
) -> None:
    assert (await front.ask("OPTIONS", path)).status == 404
    answer = await front.ask("OPTIONS", path, headers={"Access-Control-Request-Method": "PUT"})
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/models/tiny", "GET, HEAD, OPTIONS"),
        ("/v1/models/tiny:explain", "POST, PUT, GET, OPTIONS"),
        ("/nowhere", "OPTIONS"),
    ],
)
async def test_allow_is_of_the_path_where_one_route_has_several(front: Front, path: str, allowed: str) -> None:
    assert (await front.ask("OPTIONS", path)).headers["Allow"] == allowed


async def test_options_of_the_server_are_its_description(front: Front) -> None:
    reader, writer = await front.connect()
    writer.write(b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == (await front.ask("OPTIONS", "/")).body

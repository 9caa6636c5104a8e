"""OpenAI's routes: which model a body asks for, what its handler gets, and errors as OpenAI's clients read them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import deployment_of, failed_deployment
from torchserve_lite.config.settings import AccessConfig
from torchserve_lite.core.models import ModelKey
from torchserve_lite.core.requests import Part
from torchserve_lite.errors import QueueFull
from torchserve_lite.management.access import Access

from .conftest import Front, listening

CHAT = "/openai/v1/chat/completions"


@pytest.fixture
async def writer(front: Front) -> Front:
    """Beside tiny: writer, with an adapter, and a plain model."""
    config = {"handler": {"adapters": {"polite": "adapters/polite"}}}
    front.registry.add(deployment_of(key=ModelKey("writer", "1.0"), openai=True, model_config=config))
    front.registry.add(deployment_of(key=ModelKey("plain", "1.0")))
    return front


def asking(model: object, **more: object) -> bytes:
    return json.dumps({"model": model, "messages": [], **more}).encode()


@pytest.mark.parametrize("path", ["v1/chat/completions", "v1/completions", "v1/embeddings"])
async def test_body_goes_as_it_came_to_the_model_that_it_names(writer: Front, path: str) -> None:
    body = asking("writer", temperature=0.5)
    answer = await writer.post(f"/openai/{path}", body, headers={"Content-Type": "text/plain"})
    assert (answer.status, answer.body) == (200, body)
    asked = writer.asked
    assert (asked.model, asked.version, asked.parts) == ("writer", None, (Part("body", body, "application/json"),))
    assert ("url_path", path) in asked.headers


async def test_adapter_is_served_by_its_model(writer: Front) -> None:
    assert (await writer.post(CHAT, asking("polite"))).status == 200
    assert writer.asked.model == "writer"


async def test_models_are_those_that_speak_openai_and_their_adapters(writer: Front) -> None:
    answer = await writer.ask("GET", "/openai/v1/models")
    assert (answer.status, answer.json["object"]) == (200, "list")
    assert [model["id"] for model in answer.json["data"]] == ["tiny", "writer", "polite"]
    one = await writer.ask("GET", "/openai/v1/models/polite")
    assert one.json == answer.json["data"][2]
    assert (one.json["object"], one.json["parent"]) == ("model", "writer")


def error_of(answer: Any, status: int) -> dict[str, Any]:
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    assert list(answer.json) == ["error"]
    error: dict[str, Any] = answer.json["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return error


@pytest.mark.parametrize("model", ["nobody", "", "meta-llama/Llama", "writer/1.0", "plain"])
async def test_model_that_does_not_speak_openai_is_not_found(writer: Front, model: str) -> None:
    error = error_of(await writer.post(CHAT, asking(model)), 404)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "model", "model_not_found")
    assert model in error["message"]
    assert not writer.engine.jobs


async def test_plain_model_is_told_how_to_become_one(writer: Front) -> None:
    assert "openai: true" in error_of(await writer.post(CHAT, asking("plain")), 404)["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"hello", b"[]", b'{"messages": []}', asking(7), asking(None), b'{"model": "writer"', b"\xff\xfe"],
    ids=repr,
)
async def test_body_without_a_model_is_refused(writer: Front, body: bytes) -> None:
    error = error_of(await writer.post(CHAT, body), 400)
    assert (error["type"], error["code"]) == ("invalid_request_error", None)
    assert "model" in error["message"]


async def test_body_that_is_nested_too_deeply_is_refused(writer: Front) -> None:
    body = b'{"model": "writer", "messages": ' + b"[" * 4000 + b"]" * 4000 + b"}"
    assert "nested too deeply" in error_of(await writer.post(CHAT, body), 400)["message"]


async def test_model_that_could_not_be_registered_says_why(writer: Front) -> None:
    writer.registry.unopened.append(failed_deployment("broken", "no such weights"))
    answer = await writer.post(CHAT, asking("broken"))
    error = error_of(answer, 503)
    assert (error["type"], "no such weights" in error["message"]) == ("server_error", True)
    assert answer.headers["Retry-After"] == "30"


async def test_full_queue_is_an_error_that_clients_come_back_after(writer: Front) -> None:
    writer.engine.refusal = QueueFull("writer", 100)
    answer = await writer.post(CHAT, asking("writer"))
    assert (error_of(answer, 503)["type"], answer.headers["Retry-After"]) == ("server_error", "1")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405),
        ("POST", "/openai/v1/models", 405),
        ("GET", "/openai/v1/models/nobody", 404),
        ("POST", "/openai/v1/images/generations", 404),
        ("GET", "/openai/", 404),
    ],
)
async def test_refusal_of_a_route_is_openais(writer: Front, method: str, path: str, status: int) -> None:
    error_of(await writer.ask(method, path), status)


async def test_key_is_sent_as_openais_clients_send_theirs() -> None:
    access = Access(AccessConfig())
    async with listening(access=access) as front:
        refused = await front.post(CHAT, asking("nobody"))
        assert error_of(refused, 401)["code"] == "invalid_api_key"
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert error_of(await front.ask("GET", "/openai/v1/models"), 401)["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/predictions/tiny/1.0/v1/models", 200),
        ("/predictions/tiny/1.0/v1/models/tiny", 200),
        ("/predictions/tiny/1.0/v1/completions", 405),
        ("/predictions/tiny/1.0", 405),
    ],
)
async def test_get_without_a_body_reaches_a_handler_for_its_models_only(front: Front, path: str, status: int) -> None:
    assert (await front.ask("GET", path)).status == status
    if status == 200:
        assert ("url_path", path.removeprefix("/predictions/tiny/1.0/")) in front.asked.headers

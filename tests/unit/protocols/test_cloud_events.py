"""Requests that are CloudEvents are answered by CloudEvents, on V1 and V2 routes."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from torchserve_lite.core.requests import InferenceResponse

from .conftest import Front, listening

ROUTES = ["/v1/models/tiny:predict", "/v2/models/tiny/infer", "/v2/models/tiny/versions/2.0/infer"]
BINARY = {"ce-specversion": "1.0", "ce-id": "7", "Ce-Source": "test", "ce-type": "request", "ce-subject": "é"}
STRUCTURED = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
ATTRIBUTES = {"specversion": "1.0", "id": "7", "source": "test", "type": "request", "subject": "s", "level": 3}
DATA = {"instances": [1]}
ANSWER = {"predictions": [1]}
OURS = {"specversion": "1.0", "source": "io.kserve.inference.tiny", "type": "io.kserve.inference.response"}


def answering(front: Front, status: int = 200, content_type: str = "application/json") -> Front:
    answer = InferenceResponse(json.dumps(ANSWER).encode(), status, content_type=content_type)
    front.engine.answer = lambda job: job.succeed(answer)
    return front


def attributes_of(headers: Any) -> dict[str, str]:
    return {name.lower().removeprefix("ce-"): headers[name] for name in headers if name.lower().startswith("ce-")}


def without_id_and_time(attributes: dict[str, Any]) -> dict[str, Any]:
    assert attributes.pop("id") not in ("", "7")
    assert datetime.fromisoformat(attributes.pop("time")).tzinfo is not None
    return attributes


@pytest.mark.parametrize("path", ROUTES)
async def test_event_in_headers_is_answered_in_headers(front: Front, path: str) -> None:
    answer = await answering(front).post(path, json.dumps(DATA), headers=BINARY)
    assert (answer.status, answer.json, answer.headers["Content-Type"]) == (200, ANSWER, "application/json")
    assert without_id_and_time(attributes_of(answer.headers)) == OURS


@pytest.mark.parametrize("path", ROUTES)
async def test_event_as_body_is_answered_as_body(front: Front, path: str) -> None:
    event = {**ATTRIBUTES, "data": DATA}
    answer = await answering(front).post(path, json.dumps(event), headers=STRUCTURED)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/cloudevents+json")
    assert answer.json.pop("data") == ANSWER
    told = {name: value for name, value in answer.json.items() if name != "data"}
    assert without_id_and_time(told) == {**OURS, "datacontenttype": "application/json"}
    assert json.loads(bytes(front.asked.parts[0].data)) == event  # the worker takes the request out of it


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Content-Type": "application/json"}, id="event as plain JSON"),
        pytest.param(
            {name: BINARY[name] for name in ("ce-id", "ce-type", "ce-specversion")}, id="headers that lack one"
        ),
    ],
)
async def test_what_does_not_say_that_it_is_an_event_is_answered_plainly(front: Front, headers: Any) -> None:
    answer = await answering(front).post(ROUTES[0], json.dumps({**ATTRIBUTES, "data": DATA}), headers=headers)
    assert (answer.json, answer.headers["Content-Type"]) == (ANSWER, "application/json")
    assert attributes_of(answer.headers) == {}


@pytest.mark.parametrize("headers", [BINARY, STRUCTURED], ids=["headers", "body"])
async def test_error_is_no_event(front: Front, headers: dict[str, str]) -> None:
    answer = await front.post("/v1/models/other:predict", b"{}", headers=headers)
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/json")
    assert attributes_of(answer.headers) == {}
    answer = await answering(front, status=429).post(ROUTES[0], b"{}", headers=headers)
    assert (answer.status, answer.json, attributes_of(answer.headers)) == (429, ANSWER, {})


async def test_bytes_do_not_become_a_document(front: Front) -> None:
    answering(front, content_type="application/octet-stream")
    answer = await front.post(ROUTES[1], b"{}", headers=STRUCTURED)
    assert (answer.json, answer.headers["Content-Type"]) == (ANSWER, "application/octet-stream")


async def test_attributes_are_those_of_the_configuration_and_the_request() -> None:
    config: Any = {"event_type": "answer", "event_source": "here", "event_merge": True}
    ours = {"specversion": "1.0", "type": "answer", "source": "here"}
    async with listening(**config) as front:
        answer = await answering(front).post(ROUTES[0], b"{}", headers={**BINARY, "ce-subject": "s"})
        assert without_id_and_time(attributes_of(answer.headers)) == {**ours, "subject": "s"}
        event = json.dumps({**ATTRIBUTES, "data": DATA})
        told = (await front.post(ROUTES[0], event, headers=STRUCTURED)).json
        assert told.pop("data") == ANSWER
        others = {"datacontenttype": "application/json", "subject": "s", "level": 3}
        assert without_id_and_time(told) == {**ours, **others}


@pytest.mark.parametrize("body", [b"[1]", b"{", b'{"subject": [}'])
async def test_body_that_is_no_object_has_no_attributes(body: bytes) -> None:
    """Whatever the worker thought of it."""
    async with listening(event_merge=True) as front:
        told = (await answering(front).post(ROUTES[0], body, headers=STRUCTURED)).json
        assert told["data"] == ANSWER

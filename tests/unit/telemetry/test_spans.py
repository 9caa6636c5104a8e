"""What a trace tells of a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import KEY
from torchserve_lite.core.requests import InferenceRequest, Verb
from torchserve_lite.telemetry.ended_requests import EndedRequest, ModelRun, Step
from torchserve_lite.telemetry.spans import SpanFacts, spans_of

RUN: dict[str, Any] = {
    "request": InferenceRequest("id", "tiny", None, Verb.PREDICT, ()),
    "model": KEY,
    "arrived": 1.0,
    "seconds": 8.0,
    "queue": 2.0,
    "way": 1.0,
    "handler": 5.0,
    "steps": (Step(name="inference", began=0.5, seconds=3.0),),
    "batch_size": 4,
    "error": "",
}
ENDED: dict[str, Any] = {
    "id": "id",
    "asked": "POST /predictions/tiny HTTP/1.1",
    "peer": "/10.0.0.1:4000",
    "status": 200,
    "began": 5000.0,
    "seconds": 10.0,
}


def ended(*runs: dict[str, Any], **facts: Any) -> EndedRequest:
    return EndedRequest(**{**ENDED, **facts}, runs=tuple([ModelRun(**{**RUN, **run}) for run in runs or ({},)]))


def all_of(span: SpanFacts) -> Iterator[SpanFacts]:
    yield span
    for child in span.children:
        yield from all_of(child)


def test_time_of_a_request_is_laid_out_span_by_span() -> None:
    told = {span.name: (span.began, span.seconds) for span in all_of(spans_of(ended()))}
    assert told == {
        "POST /predictions/{model_name}": (0.0, 10.0),
        "predict tiny": (1.0, 8.0),
        "queue": (1.0, 2.0),
        "batch": (3.0, 6.0),
        "handler": (4.0, 5.0),
        "inference": (4.5, 3.0),
    }


@pytest.mark.parametrize(
    ("run", "names"),
    [
        pytest.param({"batch_size": 0, "error": "QueueFull"}, {"predict tiny", "queue"}, id="never sent to a worker"),
        pytest.param(
            {"handler": 0.0, "way": 6.0, "steps": ()},
            {"predict tiny", "queue", "batch", "handler"},
            id="sent to one that never said what it did: handlers were told that span all the same",
        ),
    ],
)
def test_span_is_there_for_what_has_happened(run: dict[str, Any], names: set[str]) -> None:
    assert {span.name for span in all_of(spans_of(ended(run)))} == {"POST /predictions/{model_name}", *names}


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/predictions/m", "/predictions/{model_name}"),
        ("/predictions/m/1.0?x=1", "/predictions/{model_name}/{model_version}"),
        ("/predictions/m/1.0/v1/chat/completions", "/predictions/{model_name}/{model_version}/{url_path}"),
        ("/explanations/m", "/explanations/{model_name}"),
        ("/v1/models/m:predict", "/v1/models/{model_name}:predict"),
        ("/v2/models/m/infer", "/v2/models/{model_name}/infer"),
        ("/v2/models/m/versions/2/explain", "/v2/models/{model_name}/versions/{model_version}/explain"),
        ("/models/m/invoke", "/models/{model_name}/invoke"),
        ("/invocations", "/invocations"),
        ("/openai/v1/chat/completions", "/openai/v1/chat/completions"),
        ("/wfpredict/w", "/wfpredict/{workflow_name}"),
        ("/m/predict", "/{model_name}/predict"),
    ],
)
def test_name_of_a_request_has_no_name_of_a_model(path: str, route: str) -> None:
    span = spans_of(ended(asked=f"POST {path} HTTP/1.1"))
    assert (span.name, span.attributes["http.route"]) == (f"POST {route}", route)


@pytest.mark.parametrize(
    ("facts", "error"),
    [
        pytest.param({"status": 200}, "", id="answered"),
        pytest.param({"status": 404}, "", id="the client's fault"),
        pytest.param({"status": 503}, "503", id="the server's"),
        pytest.param({"status": None}, "client_left", id="nobody's"),
        pytest.param({"status": 5, "asked": "gRPC a.B/C HTTP/2.0"}, "", id="the client's, over gRPC"),
        pytest.param({"status": 14, "asked": "gRPC a.B/C HTTP/2.0"}, "14", id="the server's, over gRPC"),
    ],
)
def test_request_has_failed_when_the_server_has(facts: dict[str, Any], error: str) -> None:
    span = spans_of(ended(**facts))
    assert (span.error, span.attributes.get("error.type", "")) == (error, error)


def test_error_of_a_request_is_named_as_that_of_its_model() -> None:
    assert spans_of(ended({"error": "QueueFull"}, status=503)).error == "QueueFull"


def test_parts_of_a_workflow_say_which_requests_they_are() -> None:
    part = {"request": InferenceRequest("part", "tiny", None, Verb.PREDICT, ())}
    first, second = spans_of(ended({}, part)).children
    assert ("torchserve.request.id" in first.attributes, second.attributes["torchserve.request.id"]) == (False, "part")
